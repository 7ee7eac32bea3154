"""The tokenizer of XLM-RoBERTa, which multilingual-e5 shares: SentencePiece Unigram, `nmt_nfkc`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.embed.weights import Pieces

_RULE = "nmt_nfkc"


def sentencepiece_model(pieces: Pieces) -> bytes:
    """A model file for SentencePiece, in the format of its sentencepiece_model.proto.

    Special tokens cannot be written in a text: `</s>` there is four characters.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2
    types = proto.ModelProto.SentencePiece.Type
    control = {pieces.bos, pieces.eos, pieces.pad}
    model = proto.ModelProto()
    for number, (text, score) in enumerate(pieces.scores):
        kind = types.CONTROL if number in control else types.NORMAL
        if number == pieces.unk:
            kind = types.UNKNOWN
        model.pieces.add(piece=text, score=score, type=kind)
    spec = model.trainer_spec
    spec.model_type = proto.TrainerSpec.ModelType.UNIGRAM
    spec.bos_id, spec.eos_id = pieces.bos, pieces.eos
    spec.pad_id, spec.unk_id = pieces.pad, pieces.unk
    model.normalizer_spec.CopyFrom(_normaliser(proto))
    serialised: bytes = model.SerializeToString()
    return serialised


def _normaliser(proto: Any) -> Any:
    """SentencePiece gives its rules away only in a model: one is trained on nothing much."""
    from sentencepiece import SentencePieceTrainer

    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f"]),
        model_writer=trained,
        vocab_size=12,
        hard_vocab_limit=False,
        normalization_rule_name=_RULE,
        minloglevel=3,
    )
    model = proto.ModelProto()
    model.ParseFromString(trained.getvalue())
    return model.normalizer_spec
