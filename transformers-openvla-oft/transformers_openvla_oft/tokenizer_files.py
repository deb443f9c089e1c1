"""Reading the tokenizer of a checkpoint, and saying which of its files is not as it should be."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from .loading import CheckpointError, broken, read_object

TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer_config.json"
EXPECTED = "the tokenizer of a Llama, as PreTrainedTokenizerFast saves it"
PROBE = "pick up the bowl"


def stored_tokenizer(folder: Path, *, vocabulary_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a checkpoint or another folder, for a model with `vocabulary_size` embeddings.

    Raises:
        CheckpointError: a file is missing, corrupt, or no tokenizer of Llama's structure, or it is another model's.
        OSError: there is no such folder.
    """
    # The published tokenizer classes differ in how they rebuild the tokenizer; the file is the same for all.
    try:
        tokens = PreTrainedTokenizerFast.from_pretrained(folder)
        tokens(PROBE)
    except Exception as error:  # tokenizers raises nothing narrower, transformers whatever the content leads to
        raise _fault(folder, error) from error
    assert isinstance(tokens, PreTrainedTokenizerFast)
    try:
        for name, token in (("bos_token", tokens.bos_token), ("pad_token", tokens.pad_token)):
            token_id(tokens, name, token)
    except ValueError as error:
        raise no_tokenizer(folder / SETTINGS_FILE, str(error)) from error
    if (largest := max(tokens.get_vocab().values())) >= vocabulary_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has tokens up to number {largest}, but the model has only {vocabulary_size} "
            "embeddings (text_config.vocab_size of its config.json): take the tokenizer that belongs to the model."
        )
    return tokens


def token_id(tokenizer: PreTrainedTokenizerFast, name: str, token: str | None) -> int:
    """The number of a token that every prompt needs. name: what it is, for messages.

    Raises:
        ValueError: the tokenizer has none.
    """
    found = None if token is None else tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no {name} ({token!r}); it must have the structure of Llama's")
    return found


def no_tokenizer(file: Path, why: str) -> CheckpointError:
    """The error for a file that is not what a tokenizer has there."""
    return broken(file, why, expected=EXPECTED)


def _fault(folder: Path, error: Exception) -> Exception:
    """The error that names the file which `error` came of; there may be no folder to look into."""
    if not folder.is_dir():
        return error if isinstance(error, OSError) else OSError(str(error))
    try:
        for name in (TOKENIZER_FILE, SETTINGS_FILE):
            read_object(folder / name, expected=EXPECTED)
        Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except CheckpointError as fault:
        return fault
    except Exception as fault:  # noqa: BLE001 (tokenizers raises nothing narrower)
        return no_tokenizer(folder / TOKENIZER_FILE, str(fault))
    # It reads alone, so what is written about it beside it is wrong.
    return no_tokenizer(folder / SETTINGS_FILE, f"{type(error).__name__}: {error}")
