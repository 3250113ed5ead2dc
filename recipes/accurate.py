r"""Trains the accurate network of a cascade, a small PSPNet, on crops as large as a block with its halo.

    python recipes/accurate.py --data camvid --root CAMVID -o out/weights
    python recipes/accurate.py --data camvid --root CAMVID --init out/weights/pspnet_small.safetensors \
        --block 60 --halo 34 --learning-rate 1e-3 --steps 400 -o out/blocks-60

The second command fine-tunes for other blocks, as paper 000 does for each of its sizes (section 4.2).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from single import parse, train_single
from street_data import RECIPES, Recipe


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe of the data, for the blocks that were asked for."""
    recipe = RECIPES[options.data, "pspnet-small"]
    block = recipe.block if options.block is None else options.block
    halo = recipe.halo if options.halo is None else options.halo
    assert block is not None
    side = block + 2 * halo
    return replace(recipe, block=block, halo=halo, crop=(side, side), overhang=halo)


def main(arguments: list[str] | None = None) -> None:
    options = parse("Train the accurate network.", 4000, arguments, _add_blocks)
    train_single("pspnet-small", recipe_of(options), options, arguments)


def _add_blocks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--block", type=int, help="side of the blocks, in pixels, if not the recipe's")
    parser.add_argument("--halo", type=int, help="context around a block, in pixels, if not the recipe's")


if __name__ == "__main__":
    main()
