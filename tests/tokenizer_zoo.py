"""Published tokenizers as people ship them, built small: every kind of model, normaliser, pre-tokenizer, post-processor and decoder.

Most say in `tokenizer_config.json` that they are of a class whose own parts differ from those in their `tokenizer.json`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

END = "<|endoftext|>"
CJK = "日本語の文章です。今日は良い天気ですね。中文文本也在这里。한국어 문장도 있습니다. "
TEXTS = [
    "Hello, world! It's 12345 and 2024-01-31, x1 22 333 4444.",
    "  two  spaces,\ttabs\r\nand\n\n\nlines  ",
    "e\u0301 é ﬁ Ｆｕｌｌ ÀÉ ß İ Straße",
    CJK * 3,
    "\U0001f600 emoji \u200b and \ufffd",
    "def f(x):\n    return x[0] + 1  # UPPER lower\n",
    "",
    " ",
    "▁ mark ## hash </w> <0x41>",
    "word\n" * 40,
]
SPELLED = f"before {END} after </s> [SEP] <s>"  # special tokens that stand in a text

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def _corpus() -> list[str]:
    text = (Path(textwrap.__file__).read_text(encoding="utf-8") + "".join(TEXTS)) * 2
    return [text[first : first + 2000] for first in range(0, len(text), 2000)]


def _bpe(normalizer=None, splitter=None, end=END, special=(), dropout=None, size=600) -> Tokenizer:
    """A byte-level BPE, trained with the usual pre-tokenizer so that another one gives other tokens."""
    made = Tokenizer(models.BPE())
    made.normalizer, made.decoder = normalizer, decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[end, *special], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    made.pre_tokenizer = splitter or made.pre_tokenizer
    made.model.dropout = dropout
    return made


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _pieces(prepend: bool) -> Tokenizer:
    """A BPE as SentencePiece's, with bytes to fall back on and no pre-tokenizer: Llama 2's."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    parts = [normalizers.Prepend("▁")] * prepend + [normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence(parts)
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # to train on words
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *bytes_], limit_alphabet=60, show_progress=False
    )
    made.train_from_iterator([text.replace("\n", " ") for text in _corpus()], trainer)
    content = json.loads(made.to_str())
    content["pre_tokenizer"] = None
    content["added_tokens"] = content["added_tokens"][:3]
    made = Tokenizer.from_str(json.dumps(content))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *[decoders.Strip(" ", 1, 0)] * prepend]
    )
    return made


def _metaspace(scheme: str) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme)
    made.decoder = decoders.Metaspace("▁", scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], limit_alphabet=90, show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    return made


def _unigram(normalizer: normalizers.Normalizer) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizer
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    return made


def _word_piece(normalizer, splitter, decoder) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoder
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, limit_alphabet=80, show_progress=False)
    made.train_from_iterator(_corpus(), trainer)
    return made


def _words() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False)
    made.train_from_iterator(_corpus(), trainer)
    return made


def _suffixed() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "</s>"], end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    return made


def _with_added() -> Tokenizer:
    made = _bpe(special=["<s>"])
    made.add_tokens(
        [
            AddedToken("left", lstrip=True),
            AddedToken("lines", rstrip=True, normalized=False),
            AddedToken("return", single_word=True),
            AddedToken("  ", normalized=False),
        ]
    )
    made.post_processor = processors.RobertaProcessing((END, 0), ("<s>", 1), add_prefix_space=False)
    return made


def _cut_and_filled() -> Tokenizer:
    made = _bpe(splitter=_digits())
    made.enable_truncation(8)
    made.enable_padding(length=8, pad_token=END)
    return made


def _with_start(made: Tokenizer, start: str) -> Tokenizer:
    made.post_processor = processors.TemplateProcessing(
        f"{start} $A", f"{start} $A {start} $B", [(start, made.token_to_id(start))]
    )
    return made


def _with_offsets() -> Tokenizer:
    made = _bpe()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


ROBERTA = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
BERT = {"eos_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}

# name: how it is built, tokenizer_config.json, config.json, special_tokens_map.json
ZOO: dict[str, tuple[Callable[[], Tokenizer], dict, dict | None, dict | None]] = {
    "digits": (lambda: _bpe(splitter=_digits()), {"tokenizer_class": "GPT2Tokenizer"}, {"model_type": "llama"}, None),
    "lowercase": (
        lambda: _bpe(normalizers.Lowercase()),
        {"tokenizer_class": "GPT2Tokenizer", "eos_token": END},
        None,
        None,
    ),
    "nfkc": (
        lambda: _bpe(normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.NFKC()])),
        {
            "tokenizer_class": "GPT2TokenizerFast",
            "eos_token": {"content": END, "special": True},
            "add_prefix_space": True,
        },
        {"model_type": "gpt2"},
        None,
    ),
    "llama-3": (
        lambda: _with_start(_bpe(splitter=_split(LLAMA3), special=["<s>"]), "<s>"),
        {"tokenizer_class": "GPTNeoXTokenizerFast", "eos_token": END, "bos_token": "<s>"},
        {"model_type": "gpt_neox"},
        None,
    ),
    "llama-3-as-llama-2": (
        lambda: _bpe(splitter=_split(LLAMA3), end="</s>", special=["<s>", "<unk>"]),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True} | ROBERTA,
        {"model_type": "llama"},
        None,
    ),
    "qwen": (
        lambda: _bpe(normalizers.NFD(), splitter=_digits()),
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "bos_token": None},
        {"model_type": "qwen2"},
        None,
    ),
    "pieces": (
        lambda: _with_start(_pieces(prepend=True), "<s>"),
        {"tokenizer_class": "PreTrainedTokenizerFast"} | ROBERTA,
        {"model_type": "llama"},
        None,
    ),
    "pieces-without-prefix": (
        lambda: _pieces(prepend=False),
        {"tokenizer_class": "LlamaTokenizer", "legacy": False} | ROBERTA,
        {"model_type": "llama"},
        None,
    ),
    "metaspace": (
        lambda: _metaspace("never"),
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"model_type": "llama", "eos_token_id": 2},
        {"eos_token": {"content": "</s>"}, "bos_token": "<s>"},
    ),
    "unigram": (
        lambda: _unigram(normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " "), normalizers.NFKC()])),
        {"tokenizer_class": "T5TokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"},
        {"model_type": "t5"},
        None,
    ),
    "unigram-lowercase": (
        lambda: _unigram(
            normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
        ),
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"},
        None,
        None,
    ),
    "bert-cased": (
        lambda: _word_piece(
            normalizers.BertNormalizer(lowercase=False, strip_accents=False),
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
        ),
        {"tokenizer_class": "BertTokenizer"} | BERT,  # the class lowercases
        {"model_type": "bert"},
        None,
    ),
    "word-piece": (
        lambda: _word_piece(
            None, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]), None
        ),
        {"tokenizer_class": "DistilBertTokenizer"} | BERT,
        {"model_type": "distilbert"},
        None,
    ),
    "words": (
        _words,
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"},
        None,
        None,
    ),
    "words-as-gpt-2": (_words, {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}, {"model_type": "gpt2"}, None),
    "suffixed": (
        _suffixed,
        {"tokenizer_class": "CLIPTokenizer", "eos_token": "</s>", "unk_token": "<unk>"},
        {"model_type": "clip"},
        None,
    ),
    "added": (
        _with_added,
        {"tokenizer_class": "RobertaTokenizer", "eos_token": END, "bos_token": "<s>"},
        {"model_type": "roberta"},
        None,
    ),
    "cut-and-filled": (_cut_and_filled, {"tokenizer_class": "GPT2Tokenizer", "eos_token": END}, None, None),
    "dropout": (
        lambda: _bpe(dropout=0.5),
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END},
        None,
        None,
    ),
    "no-class": (
        _with_offsets,
        {"model_max_length": 1024},
        {"model_type": "gpt2", "eos_token_id": 0},
        None,
    ),
}


def publish(name: str, folder: Path) -> Path:
    """Write a tokenizer of the zoo as the hub has it."""
    build, settings, config, special = ZOO[name]
    folder.mkdir(parents=True)
    build().save(str(folder / "tokenizer.json"))
    for file, content in (
        ("tokenizer_config.json", settings),
        ("config.json", config),
        ("special_tokens_map.json", special),
    ):
        if content is not None:
            (folder / file).write_text(json.dumps(content))
    return folder


def reference(folder: Path) -> Tokenizer:
    """What `tokenizers` itself reads there, with nothing cut off, filled up or left to chance."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content |= {"truncation": None, "padding": None}
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None
    return Tokenizer.from_str(json.dumps(content))
