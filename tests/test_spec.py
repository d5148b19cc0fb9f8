"""Reading and writing specs as plain trees, and what errors say."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from spec_family import (
    BERT,
    LLAMA,
    ToyAll,
    ToyBlock,
    ToyCausal,
    ToyConfig,
    ToyLayerNorm,
    ToyLinear,
    ToyMask,
    ToyMixer,
    ToyNorm,
    ToyRMSNorm,
    ToySoftmax,
    ToyStack,
    ToyWindow,
)

from attnlib.config import config_names, load_tree, parse_tree, to_yaml
from attnlib.errors import SpecError
from attnlib.spec import PlacedError, Spec, SpecErrors, join_path, json_schema, read, split_path, write


def errors_of(slot: type[Spec], tree: Any) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        read(slot, tree)
    return str(caught.value).split("\n")


def config(text: str) -> ToyConfig:
    tree, marks = parse_tree(text, "c.yaml")
    return read(ToyConfig, tree, marks=marks)


def test_kind_is_resolved_when_read() -> None:
    class Slot(Spec, slot="slot"):
        pass

    class Early(Slot, kind="early"):
        pass

    with pytest.raises(SpecErrors, match="unknown kind 'late', wish 'early'"):
        read(Slot, "late")

    class Late(Slot, kind="late"):
        p: int = 2

    assert read(Slot, "late") == Late()
    assert read(Slot, {"kind": "late", "p": 3}) == Late(p=3)


def test_short_forms_are_the_long_forms() -> None:
    assert read(ToyNorm, "rms") == read(ToyNorm, {"kind": "rms"}) == ToyRMSNorm()
    assert read(ToyMask, 3) == ToyWindow(before=3)
    assert read(ToyMask, ["causal", [2]]) == ToyAll(masks=(ToyCausal(), ToyAll(masks=(ToyWindow(before=2),))))


def test_kind_may_be_left_to_the_slots_default() -> None:
    assert read(ToyMixer, {"num_heads": 2}) == ToySoftmax(num_heads=2)
    assert errors_of(ToyNorm, {"eps": 0.1}) == ["kind: missing, wish one of 'layer', 'rms'"]


def test_specs_may_stand_in_the_tree() -> None:
    norm = ToyRMSNorm(eps=0.5)
    assert read(ToyBlock, {"norm": norm, "attention": ToyLinear(num_heads=1), "d_ff": 3}).norm is norm


@pytest.mark.parametrize("text", [LLAMA, BERT])
@pytest.mark.parametrize("full", [False, True])
def test_read_write_round_trip(text: str, full: bool) -> None:
    spec = config(text)
    tree = write(spec, full=full)
    again = read(ToyConfig, tree)
    assert again == spec and hash(again) == hash(spec) and write(again, full=full) == tree


def test_write_leaves_defaults_out_and_names_kinds() -> None:
    assert write(ToyRMSNorm()) == {"kind": "rms"}
    assert write(ToyRMSNorm(eps=0.5)) == {"kind": "rms", "eps": 0.5}
    assert write(ToyRMSNorm(), full=True) == {"kind": "rms", "eps": 1e-6, "unit_offset": False}


BLOCK = {"attention": {"num_heads": 4}, "d_ff": 8}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"droput": 0.1},
            "droput: unknown field, wish one of 'attention', 'norm', 'final', 'd_ff', 'dropout' (did you mean 'dropout'?)",
        ),
        ({"norm": "rsm"}, "norm: unknown kind 'rsm', wish one of 'layer', 'rms' (did you mean 'rms'?)"),
        ({"norm": {"kind": "rsm"}}, "norm.kind: unknown kind 'rsm', wish one of 'layer', 'rms' (did you mean 'rms'?)"),
        ({"norm": {"kind": 3}}, "norm.kind: unknown kind 3, wish one of 'layer', 'rms'"),
        (
            {"norm": {"kind": "rms", "bias": True}},
            "norm.bias: unknown field of kind 'rms', wish one of 'eps', 'unit_offset' (belongs to kind 'layer')",
        ),
        ({"norm": 5}, "norm: 5, wish a toy_norm: one of 'layer', 'rms'"),
        ({"norm": None}, "norm: null, wish a toy_norm: one of 'layer', 'rms'"),
        ({"d_ff": True}, "d_ff: true, wish a whole number > 0 (true and false are not numbers)"),
        ({"d_ff": 4.0}, "d_ff: 4.0, wish a whole number > 0 (write 4)"),
        (
            {"d_ff": "1_024"},
            "d_ff: '1_024', wish a whole number > 0 (write 1024, without quotes, underscores or commas)",
        ),
        ({"d_ff": [4]}, "d_ff: a list of 1, wish a whole number > 0 (write it without the brackets or the dash)"),
        ({"d_ff": {"a": 1}}, "d_ff: a mapping with 'a', wish a whole number > 0"),
        ({"dropout": float("nan")}, "dropout: nan, wish a number >= 0 and < 1"),
        ({"dropout": float("inf")}, "dropout: inf, wish a number >= 0 and < 1"),
        ({"dropout": 1}, "dropout: 1, wish a number >= 0 and < 1"),
        (
            {"norm": {"kind": "layer", "bias": "yes"}},
            "norm.bias: 'yes', wish true or false (write true, without quotes)",
        ),
        (
            {"final": "none"},
            "final: unknown kind 'none', wish a toy_norm: one of 'layer', 'rms' or 'same' or null (write null)",
        ),
        ({"attention": {"num_heads": 0}}, "attention.num_heads: 0, wish a whole number > 0 (query heads)"),
        (
            {"attention": {"num_heads": 4, "scale": "invers"}},
            "attention.scale: 'invers', wish a number or one of 'inverse_sqrt', 'inverse' (did you mean 'inverse'?)",
        ),
        ({"attention": {"num_heads": 4, "bias": ["q", 3]}}, "attention.bias[1]: 3, wish one of 'q', 'k', 'v', 'out'"),
        ({"attention": {"num_heads": 4, "num_kv_heads": 3}}, "attention.num_kv_heads: 3 groups, wish a divisor of 4"),
        ({"attention": {"num_heads": 4, "mask": ["causal", {"before": 3}]}}, None),
        ({"attention": {"num_heads": 4, "mask": []}}, "attention.mask: a list of 0, wish a list, each a toy_mask"),
    ],
)
def test_error_names_path_fact_wish_and_hint(change: dict[str, Any], error: str | None) -> None:
    wanted = error or "attention.mask[1].kind: missing, wish one of 'all', 'causal', 'window'"
    (found,) = errors_of(ToyBlock, BLOCK | change)
    assert found == wanted or (found.startswith(wanted) and "list, each" in wanted)


class ToyForms(Spec):
    """Fields of the forms that the toy models do not have."""

    a: Annotated[int, Field(gt=0)] | None = None
    b: tuple[Annotated[int, Field(ge=0)], ...] = ()
    c: Annotated[float, Field(gt=0)] | ToyNorm | None = None
    d: tuple[int, int] = (1, 2)
    e: dict[str, Annotated[int, Field(gt=0)]] = {}
    f: tuple[tuple[int, ...], ...] = ()
    g: tuple[ToyNorm, ...] | ToyNorm | None = None
    h: dict[str, tuple[ToyNorm, ...]] = {}
    i: Literal["auto"] | int = "auto"
    j: float = Field(0.5, alias="jay")


@pytest.mark.parametrize(
    "tree",
    [
        {"a": 1, "b": [0, 1], "c": 1, "d": [3, 4], "e": {"x": 1}, "f": [[1], [2, 3]], "i": 3, "jay": 2.0},
        {"c": "rms", "g": "rms"},
        {"c": {"kind": "rms", "eps": 0.5}, "g": {"kind": "rms"}, "h": {"x": ["rms", {"kind": "layer"}], "y": []}},
        {"g": ["rms"]},
        {"g": []},
    ],
)
def test_fields_of_every_form_round_trip(tree: dict[str, Any]) -> None:
    spec = read(ToyForms, tree)
    assert read(ToyForms, write(spec)) == spec == read(ToyForms, write(spec, full=True))
    schema = json_schema(ToyForms)
    assert accepts(schema, schema, tree)


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        ({"a": 0}, "a: 0, wish a whole number > 0 or null"),
        ({"b": [1, -1]}, "b[1]: -1, wish a whole number >= 0"),
        ({"c": True}, "c: true, wish a number > 0 or a toy_norm: one of 'layer', 'rms' or null (true and false"),
        ({"c": {"eps": 1}}, "c.kind: missing, wish one of 'layer', 'rms'"),
        ({"d": [1]}, "d: a list of 1, wish a list of 2: a whole number; a whole number"),
        ({"d": [1, 2, 3]}, "d: a list of 3, wish a list of 2"),
        ({"e": {"x": 0}}, "e.x: 0, wish a whole number > 0"),
        ({"e": {1: 2}}, "e: the key 1, wish text as a key"),
        ({"f": [1]}, "f[0]: 1, wish a list, each a whole number (write [1])"),
        ({"g": 5}, "g: 5, wish a list, each a toy_norm: one of 'layer', 'rms' or a toy_norm"),
        ({"h": {"x": "rms"}}, "h.x: 'rms', wish a list, each a toy_norm: one of 'layer', 'rms' (write [rms])"),
        ({"i": "aut"}, "i: 'aut', wish 'auto' or a whole number (did you mean 'auto'?)"),
        ({"jay": "x"}, "jay: 'x', wish a number"),
        ({"j": 1.0, "jay": 1.0}, "j: unknown field"),
        ({"kidn": "x", "kind": "y"}, "kidn: unknown field"),
        ([], "spec: a list of 0, wish a mapping with 'a', 'b'"),
    ],
)
def test_faults_in_fields_of_every_form(tree: Any, error: str) -> None:
    found = errors_of(ToyForms, tree)
    assert found[0].startswith(error), found


def test_misspelled_kind_is_named() -> None:
    assert errors_of(ToyNorm, {"kidn": "rms"}) == [
        "kidn: unknown field where the kind is missing, wish one of 'layer', 'rms' (did you mean 'kind'?)"
    ]


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    text = LLAMA.replace("d_ff: 96", "d_ff: -1").replace("eps: 1e-5", "epsilon: 1e-5").replace("- tied", "- tide")
    with pytest.raises(SpecErrors) as caught:
        config(text.replace("  d_model: 48\n", ""))
    found = [
        (e.mark.line if e.mark else None, join_path(e.place)) for e in caught.value.errors if isinstance(e, PlacedError)
    ]
    local = "model.stack.blocks.local"
    assert found == [(2, "model.d_model"), (9, f"{local}.d_ff"), (10, f"{local}.norm.epsilon"), (20, "model.heads[0]")]
    assert str(caught.value).startswith("c.yaml:2:1: model.d_model: missing, wish a whole number > 0\nc.yaml:9:15: ")


def test_a_fault_does_not_bring_faults_of_the_checks_over_it() -> None:
    assert len(errors_of(ToyStack, {"num_layers": 1, "blocks": {"a": BLOCK | {"d_ff": 0}}})) == 1
    assert errors_of(ToyStack, {"num_layers": 1}) == ["block: block and blocks, wish one of them"]


def test_misspelled_required_key_is_one_error() -> None:
    assert len(errors_of(ToyMixer, {"num_haeds": 4})) == 1


def test_constructor_raises_the_same_errors() -> None:
    with pytest.raises(SpecErrors) as caught:
        ToySoftmax(num_heads=-1, num_head=3)  # type: ignore[call-arg]
    assert [str(e).split(",")[0] for e in caught.value.errors] == [
        "ToySoftmax.num_heads: -1",
        "ToySoftmax.num_head: unknown field of kind 'softmax'",
    ]


def test_lists_are_taken_for_tuples_and_specs_stay_hashable() -> None:
    spec = ToyStack(num_layers=1, blocks={"a": ToyBlock(**read(ToyBlock, BLOCK).__dict__)}, pattern=["a"])  # type: ignore[arg-type]
    assert spec.pattern == ("a",)
    assert isinstance(hash(spec), int)


def test_copies_pickles_and_replacements_keep_equality_and_hash_honest() -> None:
    spec = ToyRMSNorm(eps=0.5)
    assert hash(spec) == hash(ToyRMSNorm(eps=0.5))
    for other in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert other == spec and hash(other) == hash(spec)
    changed = spec.replace(unit_offset=True)
    assert changed == ToyRMSNorm(eps=0.5, unit_offset=True) and hash(changed) != hash(spec)
    with pytest.raises(SpecErrors):
        spec.replace(eps=0.0)
    assert spec.model_copy(update={"eps": 0.25}) == ToyRMSNorm(eps=0.25)
    assert hash(spec.model_copy(update={"eps": 0.25})) == hash(ToyRMSNorm(eps=0.25))


def test_errors_survive_pickling() -> None:
    with pytest.raises(SpecErrors) as caught:
        config(LLAMA.replace("eps: 1e-5", "eps: -1"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.errors[0].mark == caught.value.errors[0].mark  # type: ignore[attr-defined]


def test_threads_may_read_the_first_specs_at_once() -> None:
    class Fresh(Spec, slot="fresh"):
        pass

    class Part(Fresh, kind="part"):
        width: int = Field(gt=0)
        inner: Fresh | None = None

    tree: dict[str, Any] = {"kind": "part", "width": 1, "inner": {"kind": "part", "width": 2}}
    found: list[Any] = []
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        found.append(read(Fresh, tree))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(spec == found[0] for spec in found)


def test_paths_are_spelled_and_read_back() -> None:
    place = ("model", "blocks", 0, "norm", "eps")
    assert join_path(place) == "model.blocks[0].norm.eps"
    assert split_path(join_path(place)) == place
    assert split_path("a.0.b") == ("a", "0", "b")
    for broken in (".a", "a..b", "a.", "a[x]", "a]"):
        with pytest.raises(SpecError):
            split_path(broken)


def test_locate_gives_later_errors_their_position() -> None:
    _, marks = parse_tree(LLAMA, "c.yaml")
    error = marks.locate(SpecError("model.stack.blocks.local.norm.eps", "too small", "wish more"))
    assert str(error) == "c.yaml:11:32: model.stack.blocks.local.norm.eps: too small, wish more"


def accepts(schema: dict[str, Any], node: dict[str, Any], value: Any) -> bool:
    """A structural validator for the words of JSON Schema that we write."""
    if "$ref" in node:
        return accepts(schema, schema["$defs"][node["$ref"].removeprefix("#/$defs/")], value)
    if "oneOf" in node:
        return sum(accepts(schema, option, value) for option in node["oneOf"]) == 1
    if "anyOf" in node:
        return any(accepts(schema, option, value) for option in node["anyOf"])
    if "enum" in node or "const" in node:
        return value in node.get("enum", [node.get("const")])
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    if node["type"] == "null":
        return value is None
    if not isinstance(value, types[node["type"]]) or (node["type"] != "boolean" and isinstance(value, bool)):
        return False
    if isinstance(value, dict):
        known, rest = node.get("properties", {}), node.get("additionalProperties")
        return all(key in value for key in node.get("required", ())) and all(
            accepts(schema, known[k], v) if k in known else isinstance(rest, dict) and accepts(schema, rest, v)
            for k, v in value.items()
        )
    if isinstance(value, list):
        if "prefixItems" in node:
            return len(value) == node["minItems"] and all(accepts(schema, n, v) for n, v in zip(node["prefixItems"], value))
        return all(accepts(schema, node["items"], item) for item in value) and len(value) >= node.get("minItems", 0)
    if isinstance(value, str):
        return True
    low, high = node.get("exclusiveMinimum", float("-inf")), node.get("maximum", float("inf"))
    return bool(value > low and value >= node.get("minimum", low) and value <= high)


@pytest.mark.parametrize("text", [LLAMA, BERT])
def test_json_schema_takes_what_read_takes(text: str) -> None:
    schema = json_schema(ToyConfig)
    tree, _ = parse_tree(text)
    assert accepts(schema, schema, tree)
    assert accepts(schema, schema, write(read(ToyConfig, tree)))
    assert accepts(schema, schema, write(read(ToyConfig, tree), full=True))
    for broken in ("d_ff: 0", "d_ff: wide", "d_fff: 8"):
        wrong, _ = parse_tree(text.replace("d_ff: 96", broken).replace("d_ff: 64", broken))
        assert not accepts(schema, schema, wrong)


@pytest.mark.parametrize("name", config_names())
def test_shipped_models_round_trip_and_fit_their_schema(name: str) -> None:
    from attnlib.models.spec import ModelSpec

    tree, marks = load_tree(name)
    if "model" not in tree:
        return  # a part that others extend
    model = read(ModelSpec, tree["model"], path="model", marks=marks)
    assert read(ModelSpec, write(model)) == model
    assert read(ModelSpec, parse_tree(to_yaml(write(model, full=True)))[0]) == model
    schema = json_schema(ModelSpec)
    assert accepts(schema, schema, tree["model"]) and accepts(schema, schema, write(model, full=True))


def test_json_schema_names_new_kinds() -> None:
    class Place(Spec, slot="place"):
        pass

    assert "oneOf" not in json_schema(Place)["$defs"]["place"]

    class Here(Place, kind="here"):
        """Where we are."""

    here, short = json_schema(Place)["$defs"]["place"]["oneOf"]
    assert short == {"enum": ["here"]} and here["description"] == Here.__doc__
    assert here["properties"] == {"kind": {"const": "here"}} and here["required"] == ["kind"]


def test_default_of_a_slot_is_not_shared_by_its_kinds() -> None:
    assert ToySoftmax.default_kind == "" and ToyMixer.default_kind == "softmax"
    assert ToyLayerNorm.slot == "toy_norm" and ToyLayerNorm.kind == "layer"


def test_a_tied_head_over_a_narrower_embedding_is_refused_at_its_field() -> None:
    from attnlib.models.spec import ModelSpec

    block = {"attention": {"num_heads": 2}, "mlp": {"kind": "dense", "d_ff": 8}}
    tree = {"kind": "decoder", "d_model": 8, "vocab_size": 5, "stack": {"num_layers": 1, "block": block}}
    with pytest.raises(SpecErrors, match=r"model\.head\.tied: true, over an embedding of width 4 .* wish false"):
        read(ModelSpec, {**tree, "embedding": {"d_embedding": 4}}, path="model")
    read(ModelSpec, {**tree, "embedding": {"d_embedding": 4}, "head": {"kind": "lm", "tied": False}}, path="model").build()
