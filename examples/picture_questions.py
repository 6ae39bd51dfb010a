"""Made pictures of coloured shapes, and questions about them that need both to be answered.

A picture shows one to ten shapes, each in a cell of a grid of six by six, on a noisy ground. A
question asks whether a shape is there, what is left of or above it, how many there are, or of which
there are more: some ask for a look, others for counting or for two looks in a row. The noise, too,
differs from picture to picture.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

COLOURS = {
    "red": (0.9, 0.15, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.15, 0.3, 0.95),
    "yellow": (0.95, 0.85, 0.1),
}
SHAPES = ("disc", "square", "triangle", "cross")
CELL_SIZE, GRID_SIZE = 12, 6
PICTURE_SIZE = CELL_SIZE * GRID_SIZE
"""Pixels of a side."""
MOST_THINGS = 10
QUESTIONS_EACH = 8
ANSWERS = ("no", "yes", *COLOURS, *SHAPES, *map(str, range(MOST_THINGS + 1)))
_WORDS = (
    *("is", "there", "a", "how", "many", "what", "colour", "shape", "the", "thing", "things"),
    *("next", "left", "right", "above", "below", "of", "more", "than", "are", "or", "?"),
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
)
WORD_IDS = {word: number for number, word in enumerate(_WORDS, start=1)}
"""0 is padding."""
LONGEST_QUESTION = 12

_STRONGEST_NOISE = 0.3
_PICTURES_AT_ONCE = 1024

Thing = tuple[str, str]
"""Colour and shape."""
Scene = dict[tuple[int, int], Thing]
"""What stands in the cells of the grid, by row and column."""


@dataclasses.dataclass(frozen=True)
class Questions:
    """Pictures, each with questions of its own.

    Attributes:
        pictures: uint8[P, 3, 72, 72].
        picture: int64[N], the picture that each question is about.
        kinds: the kind of each question, N of them.
        ids: int64[N, 12], words of the question, 0 behind its end.
        answers: int64[N], places in ``ANSWERS``.
    """

    pictures: Array
    picture: Array
    kinds: tuple[str, ...]
    ids: Array
    answers: Array

    def inputs(self, rows: Array) -> dict[str, Array]:
        """Inputs of the model for some questions, padded to the longest of them."""
        ids = self.ids[rows]
        longest = int((ids != 0).sum(axis=1).max())
        ids = ids[:, :longest]
        pixels = self.pictures[self.picture[rows]].astype(np.float32) / 255
        return {"pixels": pixels, "question": ids, "question_mask": (ids != 0).astype(np.int64)}

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Inputs in order, so many questions at once."""
        count = len(self.answers) if limit is None else min(limit, len(self.answers))
        for start in range(0, count, size):
            yield self.inputs(np.arange(start, min(start + size, count)))


def make_questions(num_pictures: int, seed: int, questions_each: int = QUESTIONS_EACH) -> Questions:
    """Pictures with questions, the same for the same seed."""
    chance = random.Random(seed)
    scenes = [_scene(chance) for _ in range(num_pictures)]
    pictures = np.empty((num_pictures, 3, PICTURE_SIZE, PICTURE_SIZE), np.uint8)
    generator = np.random.default_rng(seed)
    for start in range(0, num_pictures, _PICTURES_AT_ONCE):
        part = scenes[start : start + _PICTURES_AT_ONCE]
        pictures[start : start + len(part)] = _draw(part, generator)
    asked = [
        (n, *_question(scenes[n], chance))
        for n in range(num_pictures)
        for _ in range(questions_each)
    ]
    ids = np.zeros((len(asked), LONGEST_QUESTION), np.int64)
    for row, (_, _, text, _) in enumerate(asked):
        words = [WORD_IDS[word] for word in text.split()]
        ids[row, : len(words)] = words
    return Questions(
        pictures,
        np.array([number for number, *_ in asked]),
        tuple(kind for _, kind, _, _ in asked),
        ids,
        np.array([ANSWERS.index(answer) for *_, answer in asked]),
    )


def _scene(chance: random.Random) -> Scene:
    cells = [(row, column) for row in range(GRID_SIZE) for column in range(GRID_SIZE)]
    taken = chance.sample(cells, chance.randint(1, MOST_THINGS))
    return {cell: (chance.choice(tuple(COLOURS)), chance.choice(SHAPES)) for cell in taken}


def _question(scene: Scene, chance: random.Random) -> tuple[str, str, str]:
    """Kind, text and answer; another kind where the scene has no such question."""
    while True:
        kind = chance.choice(tuple(_KINDS))
        found = _KINDS[kind](scene, chance)
        if found is not None:
            return kind, *found


def _is_there(scene: Scene, chance: random.Random) -> tuple[str, str]:
    """As often yes as no."""
    things = list(scene.values())
    if chance.random() < 0.5:
        colour, shape = chance.choice(things)
        return f"is there a {colour} {shape} ?", "yes"
    absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in things]
    colour, shape = chance.choice(absent)
    return f"is there a {colour} {shape} ?", "no"


def _what_is_it(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """The colour of the only disc, or the shape of the only red thing."""
    which = chance.randint(0, 1)
    parts = [thing[which] for thing in scene.values()]
    single = [thing for thing in scene.values() if parts.count(thing[which]) == 1]
    if not single:
        return None
    colour, shape = chance.choice(single)
    if which == 0:
        return f"what shape is the {colour} thing ?", shape
    return f"what colour is the {shape} ?", colour


def _how_many(scene: Scene, chance: random.Random) -> tuple[str, str]:
    which, words = chance.choice(((0, tuple(COLOURS)), (1, SHAPES)))
    word = chance.choice(words)
    count = sum(thing[which] == word for thing in scene.values())
    asked = f"{word} things" if which == 0 else f"{word}s"
    return f"how many {asked} are there ?", str(count)


def _which_more(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    which, words = chance.choice(((0, tuple(COLOURS)), (1, SHAPES)))
    first, second = chance.sample(words, 2)
    counts = [sum(thing[which] == word for thing in scene.values()) for word in (first, second)]
    if counts[0] == counts[1]:
        return None
    return f"are there more {first} or {second} ?", first if counts[0] > counts[1] else second


def _what_is_beside(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """Of a thing that is there once: what stands in the next cell."""
    places = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
    things = list(scene.values())
    found = [
        (thing, where, scene[row + down, column + across])
        for (row, column), thing in scene.items()
        if things.count(thing) == 1
        for where, (down, across) in places.items()
        if (row + down, column + across) in scene
    ]
    if not found:
        return None
    (colour, shape), where, beside = chance.choice(found)
    which = chance.randint(0, 1)
    asked = ("colour", "shape")[which]
    of = " of" if where in ("left", "right") else ""
    return f"what {asked} is next {where}{of} the {colour} {shape} ?", beside[which]


_KINDS: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    "is there": _is_there,
    "what is it": _what_is_it,
    "how many": _how_many,
    "which more": _which_more,
    "what is beside": _what_is_beside,
}


def _draw(scenes: list[Scene], generator: np.random.Generator) -> Array:
    """Pictures uint8[P, 3, 72, 72]."""
    things = [(n, *cell, *thing) for n, scene in enumerate(scenes) for cell, thing in scene.items()]
    number, row, column, colours, shapes = zip(*things, strict=True)
    y, x = np.mgrid[:CELL_SIZE, :CELL_SIZE] - (CELL_SIZE - 1) / 2
    radius, down, across = generator.uniform(
        (3.5, -0.8, -0.8), (5.0, 0.8, 0.8), (len(things), 3)
    ).T[..., None, None]
    inside = _inside(np.array(shapes)[:, None, None], y - down, x - across, radius)
    ground = generator.uniform(0.3, 0.7, (len(scenes), 1, 1, 1, 1, 1)).astype(np.float32)
    cells = np.broadcast_to(
        ground, (len(scenes), GRID_SIZE, GRID_SIZE, CELL_SIZE, CELL_SIZE, 3)
    ).copy()
    paint = np.array([COLOURS[colour] for colour in colours], np.float32)[:, None, None]
    place = np.array(number), np.array(row), np.array(column)
    cells[place] = np.where(inside[..., None], paint, cells[place])
    pictures = cells.transpose(0, 5, 1, 3, 2, 4).reshape(-1, 3, PICTURE_SIZE, PICTURE_SIZE)
    strength = generator.uniform(0, _STRONGEST_NOISE, (len(scenes), 1, 1, 1)).astype(np.float32)
    noise = strength * generator.standard_normal(pictures.shape, np.float32)
    return (255 * (pictures + noise).clip(0, 1)).astype(np.uint8)


def _inside(shape: Array, y: Array, x: Array, radius: Array) -> Array:
    """Which pixels of its cell each shape covers."""
    thin, (near, far) = 0.35 * radius, np.sort([abs(y), abs(x)], axis=0)
    covers = {
        "disc": y**2 + x**2 <= radius**2,
        "square": far <= 0.85 * radius,
        "triangle": (y <= radius) & (y >= 2 * abs(x) - radius),
        "cross": (near <= thin) & (far <= radius),
    }
    return np.select([shape == name for name in covers], list(covers.values()))
