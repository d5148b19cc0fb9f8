"""A family of outside checkpoints is data: its configs to our specs and back, and one table of names."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from attnlib.errors import CheckpointError, UsageError, nearest
from attnlib.models.stack import MOST_LAYERS
from attnlib.pretrained.table import Table

if TYPE_CHECKING:
    from attnlib.models.spec import ModelSpec

T = TypeVar("T")
REQUIRED: Any = object()


class HFConfig:
    """A foreign config.json, read key by key: a wrong type or a value we cannot build names the file and the key."""

    def __init__(self, tree: Mapping[str, Any], where: str = "config.json") -> None:
        self.tree, self.where = tree, where

    def get(self, key: str, kind: type[T], default: Any = REQUIRED) -> T:
        """The value of `key`; null counts as absent. Whole numbers serve as floats."""
        value = self.tree.get(key)
        if value is None:
            if default is REQUIRED:
                raise CheckpointError(f"{self.where}: {key}", "is missing", f"wish {kind.__name__}")
            return default  # type: ignore[no-any-return]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise CheckpointError(f"{self.where}: {key}", f"is {str(value)[:80]!r}", f"wish {kind.__name__}")
        if isinstance(value, int) and "layer" in key and value > MOST_LAYERS:  # before anything is listed a layer
            raise CheckpointError(f"{self.where}: {key}", f"is {value}", f"wish at most {MOST_LAYERS}")
        return value

    def only(self, key: str, allowed: Sequence[Any]) -> None:
        """Refuse a value of `key` that would build another model; absent is fine."""
        value = self.tree.get(key)
        if value is not None and value not in allowed:
            wish = "wish " + " or ".join(str(item) for item in allowed)
            raise CheckpointError(f"{self.where}: {key}", f"is {str(value)[:80]!r}", wish, "not built here")

    def below(self, key: str) -> HFConfig:
        """The object under `key`, empty where it is absent."""
        return HFConfig(self.get(key, dict, {}), f"{self.where}: {key}")

    def over(self, defaults: Mapping[str, Any]) -> HFConfig:
        """This config with what files leave out; a key that is null here stays so."""
        return HFConfig({**defaults, **self.tree}, self.where)

    def without(self, keys: Collection[str]) -> HFConfig:
        """This config as if `keys` were absent."""
        return HFConfig({key: value for key, value in self.tree.items() if key not in keys}, self.where)


class Sample(NamedTuple):
    """A tiny foreign model for the proof of parity: its class, the keys of its config, the attention it computes with.

    untied: parameters that get values of their own, whatever the class ties them to.
    """

    architecture: str
    config: Mapping[str, Any]
    attention: str = "sdpa"
    untied: tuple[str, ...] = ()


class Family(ABC):
    """One family. A subclass in a module of `attnlib.pretrained.families`, or anywhere once imported, is found.

    architectures: the foreign class names whose weights the table reads, each with the kind of our head for it; the
    first is meant where a config names none.
    positions: whether the foreign model is "given" the positions of a padded batch, has "counted" the real tokens
    itself, or knows "none", so that only padding on the right leaves it unchanged.
    pads: false where the foreign model leaves out no padding, so that only full texts can be compared.
    halves: false where the foreign code itself fails in bfloat16.
    uncovered: what this family has and is refused here, in words for people.
    """

    name: ClassVar[str] = ""
    model_types: ClassVar[tuple[str, ...]] = ()
    architectures: ClassVar[Mapping[str, str]] = {}
    positions: ClassVar[Literal["given", "counted", "none"]] = "given"
    pads: ClassVar[bool] = True
    halves: ClassVar[bool] = True
    uncovered: ClassVar[str] = ""

    @abstractmethod
    def spec_from(self, config: HFConfig) -> ModelSpec:
        """Our spec of the model that a config describes."""

    @abstractmethod
    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        """The config.json of a spec, or a CheckpointError that names what this family cannot say."""

    def say(self, spec: ModelSpec, tree: Mapping[str, Any]) -> None:
        """Refuse a spec that the config does not say whole: the config read back must give the same architecture."""
        from attnlib.pretrained.canonical import canonical, difference

        again = self.spec_from(HFConfig(tree))
        field = difference(canonical(spec, spec.d_model), canonical(again, spec.d_model), "model")
        if field is not None:
            raise CheckpointError(field, f"is what no config of {self.name} says", f"wish a {self.name} model")

    @abstractmethod
    def table(self, spec: ModelSpec) -> Table:
        """The names of this family's tensors and ours."""

    @abstractmethod
    def samples(self) -> Mapping[str, Sample]:
        """Tiny models by what is odd about each: every option and every head that this family's configs know."""

    def architecture(self, config: HFConfig) -> str:
        """The foreign class whose weights the file holds."""
        return next(iter(config.get("architectures", list, [])), next(iter(self.architectures)))

    def architecture_of(self, spec: ModelSpec) -> str:
        """The foreign class with the head of a spec."""
        kind, classes = spec.head.kind, self.classes_of(spec)
        for name, known in classes.items():
            if known == kind:
                return name
        wish = f"wish one of {', '.join(dict.fromkeys(classes.values()))}"
        raise CheckpointError("model.head", f"is of kind {kind!r}, which no class of {self.name} has", wish)

    def classes_of(self, spec: ModelSpec) -> Mapping[str, str]:
        """Those of `architectures` that are of the spec's kind, where a family has models of several kinds."""
        return self.architectures

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        """The spec to build when the values of a tie differ in the file."""
        raise CheckpointError(theirs, "differs from the tensor it is tied to", "wish equal values")


def families() -> Iterator[Family]:
    """Every family: of the package `families`, and of the modules that a program imported itself."""
    package = importlib.import_module("attnlib.pretrained.families")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    below: list[type[Family]] = list(Family.__subclasses__())
    for kind in below:  # grows while it is walked
        below += kind.__subclasses__()
        if kind.name:
            yield kind()


def find(config: HFConfig) -> Family:
    """The family of a config.json, by `model_type`, then by whether it reads the `architectures`."""
    model_type = config.get("model_type", str)
    known = {name: family for family in families() for name in family.model_types}
    if model_type not in known:
        hint = nearest(model_type, known) or f"known: {', '.join(sorted(known))}"
        raise CheckpointError(f"{config.where}: model_type", f"is {model_type!r}", "wish a known family", hint)
    family = known[model_type]
    for name in config.get("architectures", list, []):
        if name not in family.architectures:
            wish = f"wish {' or '.join(family.architectures)}"
            raise CheckpointError(f"{config.where}: architectures", f"names {name!r}", wish)
    return family


def family_named(name: str) -> Family:
    """The family of this name."""
    known = {family.name: family for family in families()}
    if name not in known:
        wish = f"wish one of {', '.join(sorted(known))}"
        raise UsageError("family", f"{name!r} is unknown", wish, nearest(name, known))
    return known[name]


def explain_unread(family: Family, spec: ModelSpec, names: Sequence[str]) -> str:
    """`is this a … checkpoint?` of the family whose table reads every name of the file, and lacks the fewest."""
    fits: dict[str, int] = {}
    for other in families():
        try:
            lacking = other.table(spec).lacks(names)
        except Exception:  # this spec has not what the other family's table asks for
            continue
        if lacking is not None and other.name != family.name:
            fits[other.name] = lacking
    return f"is this a {min(fits, key=lambda name: fits[name])} checkpoint?" if fits else ""
