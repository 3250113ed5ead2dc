"""The tree drawn in `errors.py` is the tree that is there; every error is one line and survives a pickle."""

import pickle
import re

import pytest

from cascadert import errors
from cascadert.errors import CascadertError, MissingExtra, import_extra


def _all(cls: type[CascadertError]) -> list[type[CascadertError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _all(child))]


ALL = [cls for cls in _all(CascadertError) if cls.__module__ == errors.__name__]


def _drawn() -> dict[str, tuple[str, int]]:
    """Name of each class in the docstring's tree: its parent and exit code."""
    tree: dict[str, tuple[str, int]] = {}
    above = ["CascadertError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r" {4}((?:│   |    )*)[├└]── (\w+) +(\d)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            above[depth:] = [match[2]]
            tree[match[2]] = (above[depth - 1], int(match[3]))
    return tree


def test_drawn_tree_is_the_real_one() -> None:
    real = {cls.__name__: (cls.__bases__[0].__name__, cls.exit_code) for cls in ALL if cls is not CascadertError}
    assert _drawn() == real


@pytest.mark.parametrize("cls", ALL)
def test_message_is_one_line_of_three_parts(cls: type[CascadertError]) -> None:
    error = cls("a\nfield", "found\r\n  this", "do\tthat")
    assert str(error) == "a field: found this; do that"
    assert (error.subject, error.found, error.remedy) == ("a field", "found this", "do that")


@pytest.mark.parametrize("cls", ALL)
def test_error_survives_a_pickle(cls: type[CascadertError]) -> None:
    error = cls("a", "b", "c")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (str(copy), copy.exit_code) == (str(error), cls.exit_code)


def test_missing_extra_names_module_and_command() -> None:
    with pytest.raises(
        MissingExtra, match=r"^to fly: the Python module 'no_such_thing' is not installed; .*cascadert\[x\]"
    ):
        import_extra("no_such_thing", "x", "to fly")
    assert import_extra("json.decoder", "x", "to read").__name__ == "json.decoder"
