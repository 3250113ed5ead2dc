"""Where every millisecond and byte goes: profiles, benches, traces. Nothing that runs frames needs it."""
