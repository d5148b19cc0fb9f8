"""The other side: tiny models of transformers with every weight random, and what they give for a batch of ours."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnlib.errors import UsageError
from attnlib.pretrained.family import Family, Sample
from attnlib.pretrained.tensors import open_tensors


def transformers() -> Any:
    """The module, quiet; a UsageError where it is not installed."""
    try:
        import transformers as found
    except ImportError:
        raise UsageError("parity", "transformers is not installed", "wish pip install transformers") from None
    logging: Any = found.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return found


@contextmanager
def quietly() -> Any:
    """transformers warns of many things that are none of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build(family: Family, sample: Sample, *, seed: int = 0) -> Any:
    """Their model of a sample, in evaluation mode; norms and biases, which begin as identities, are random too."""
    hf = transformers()
    torch.manual_seed(seed)
    with quietly():
        config = hf.AutoConfig.for_model(family.model_types[0], **sample.config)
        config.architectures = [sample.architecture]
        model = getattr(hf, sample.architecture)._from_config(config, attn_implementation=sample.attention).eval()
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in module.named_parameters(recurse=False):
                if tensor.requires_grad:
                    tensor.normal_(1.0 if "Norm" in type(module).__name__ and name == "weight" else 0.0, 0.2)
            for name, tensor in module.named_buffers(recurse=False):
                if name.endswith("bias") and tensor.is_floating_point() and name in module.state_dict():
                    tensor.normal_(0.0, 0.2)
    model.tie_weights()
    for name in sample.untied:
        place, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(place), leaf, nn.Parameter(torch.randn_like(model.get_parameter(name)) * 0.2))
    return model


def write(model: Any, folder: Path) -> Path:
    """A folder as they write it."""
    with quietly():
        model.save_pretrained(folder)
    return folder


def read(architecture: str, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """Their model of a folder, and all that they complain of: keys missing, unexpected or misshapen."""
    with quietly():
        model, report = getattr(transformers(), architecture).from_pretrained(folder, output_loading_info=True, **options)
    found = [f"{kind}: {name}" for kind, names in report.items() if kind.endswith(("_keys", "_msgs")) for name in names]
    return model.eval(), found


def takes(model: Any, name: str) -> bool:
    """Whether their forward has an argument of this name."""
    return name in inspect.signature(model.forward).parameters


def outputs(out: Any) -> dict[str, Tensor]:
    """What a forward gives, under our names: logits (and those of the text), or last and pooled without a head."""
    if "start_logits" in out:
        return {"logits": torch.stack([out["start_logits"], out["end_logits"]], -1)}
    if "prediction_logits" in out:
        text = next(out[name] for name in ("seq_relationship_logits", "sop_logits") if name in out)
        return {"logits": out["prediction_logits"], "text_logits": text}
    if "logits" in out:
        return {"logits": out["logits"]}
    pooled = out.get("pooler_output")
    return {"last": out["last_hidden_state"], **({} if pooled is None else {"pooled": pooled})}


def gradients(model: Any, folder: Path) -> dict[str, Tensor]:
    """The gradient of every parameter under the name that a file gives it: a copy whose weights are the gradients is
    saved. What is no parameter there, or has had no part in the loss, comes as NaN or as zeros."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
            fixed = not theirs.requires_grad
            mine.data = torch.full_like(mine, float("nan")) if fixed else _grad(theirs)
        for buffer in twin.buffers():
            if buffer.is_floating_point():
                buffer.fill_(float("nan"))
    source = open_tensors(write(twin, folder))
    return {name: source.read(name) for name in source.facts}


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()


def positions(mask: Tensor) -> Tensor:
    """[B, T] positions that count real tokens only, as ours do."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def call(model: Any, inputs: Mapping[str, Tensor], *, counted: bool) -> Any:
    """Their forward over ids and masks; positions are given where they take them and would not count real tokens."""
    given: dict[str, Any] = dict(inputs)
    both = "decoder_input_ids" in given
    if not counted and not both and takes(model, "position_ids") and "attention_mask" in given:
        given["position_ids"] = positions(given["attention_mask"])
    if "input_features" in given:
        given["input_features"] = given["input_features"].to(model.dtype)
    return model(**{name: value for name, value in given.items() if takes(model, name)}, return_dict=True)
