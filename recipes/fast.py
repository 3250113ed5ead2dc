"""Trains the fast network of a cascade, ENet on the shrunk frame, on CamVid or on scenes.

    python recipes/fast.py --data scenes -o out/weights

Writes enet.safetensors and enet.json (command, minutes, mIoU) to the output folder. See recipes/README.md.
"""

from __future__ import annotations

from single import parse, train_single
from street_data import RECIPES


def main(arguments: list[str] | None = None) -> None:
    options = parse("Train the fast network.", 4000, arguments)
    train_single("enet", RECIPES[options.data, "enet"], options, arguments)


if __name__ == "__main__":
    main()
