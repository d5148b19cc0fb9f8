"""The grammar's machinery: spec classes, reading and writing them as plain trees, their JSON Schema."""

from attnlib.errors import SpecError
from attnlib.spec.base import Spec
from attnlib.spec.places import FieldError, Mark, Marks, Place, PlacedError, SpecErrors, join_path, split_path
from attnlib.spec.reading import read
from attnlib.spec.schema import json_schema
from attnlib.spec.writing import write

__all__ = [
    "FieldError",
    "Mark",
    "Marks",
    "Place",
    "PlacedError",
    "Spec",
    "SpecError",
    "SpecErrors",
    "join_path",
    "json_schema",
    "read",
    "split_path",
    "write",
]
