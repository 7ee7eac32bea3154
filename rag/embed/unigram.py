"""The tokenizer of XLM-RoBERTa, which multilingual-e5 shares: SentencePiece Unigram, `nmt_nfkc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from rag.embed.weights import Pieces

_SPACE = "\u2581"
_WAVE_DASH = "\uff5e"  # SentencePiece's nmt_nfkc leaves it alone, NFKC does not
_STAND_IN = "\ufdd0"  # a noncharacter: no text has it
_NEVER = "\x01"  # the normaliser removes it, so a text that says "</s>" cannot end itself


def build_tokenizer(pieces: Pieces) -> Tokenizer:
    """Encodes one text; special tokens are left to the caller."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    control = {pieces.bos, pieces.eos, pieces.pad, pieces.unk}
    vocabulary = [
        (_NEVER + piece if number in control else piece, score)
        for number, (piece, score) in enumerate(pieces.scores)
    ]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=pieces.unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_WAVE_DASH, _STAND_IN),
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(_STAND_IN, _WAVE_DASH),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme="always")
    return tokenizer
