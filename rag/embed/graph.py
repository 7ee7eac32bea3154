"""Writes multilingual-e5-small as an ONNX graph, straight from the quantised weights.

    input_ids  int64 (batch, tokens), no padding
    embedding  float32 (batch, hidden), mean over the tokens, unit length

A BERT encoder (Devlin et al. 2019) with ONNX Runtime's fused operators. The word table stays in
its 4-bit blocks, exactly as published. The linear layers become int8, symmetric, one scale for
each output; activations are quantised as they come.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.embed.weights import BLOCK, Quantized, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import NodeProto, TensorProto

_MICROSOFT = "com.microsoft"
_EPSILON = 1e-12
_IN_PLACE = 4096  # bytes; larger tensors go to the data file, which is mapped and not read


def write_encoder(weights: Weights, model: Path, data: Path) -> None:
    """Writes `model` and, beside it, `data` with its tensors."""
    import onnx

    graph = _Encoder(weights).build()
    onnx.save_model(
        graph,
        str(model),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=_IN_PLACE,
    )


class _Encoder:
    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._shape = weights.shape
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []

    def build(self) -> Any:
        from onnx import TensorProto, helper

        x = self._embeddings()
        for layer in range(self._shape.layers):
            x = self._attention(x, f"l{layer}")
            x = self._feed_forward(x, f"l{layer}")
        mean = self._node("ReduceMean", [x, self._integers("pool.axes", [1])], keepdims=0)
        self._node("LpNormalization", [mean], ["embedding"], axis=-1, p=2)
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
            [
                helper.make_tensor_value_info(
                    "embedding", TensorProto.FLOAT, ["batch", self._shape.hidden]
                )
            ],
            self._tensors,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _embeddings(self) -> str:
        hidden = self._shape.hidden
        table, scales = self._word_table()
        words = self._node(
            "GatherBlockQuantized",
            [table, "input_ids", scales],
            domain=_MICROSOFT,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )
        places = self._weights.floats("emb.pos").reshape(-1, hidden)
        first_type = self._weights.floats("emb.type").reshape(-1, hidden)[0]
        positions = self._node(
            "Slice",
            [
                self._tensor("emb.pos", places + first_type),
                self._integers("pos.start", [0]),
                self._node("Shape", ["input_ids"], start=1, end=2),
                self._integers("pos.axis", [0]),
            ],
        )
        return self._node(
            "LayerNormalization",
            [
                self._node("Add", [words, positions]),
                self._floats("emb.ln.w"),
                self._floats("emb.ln.b"),
            ],
            axis=-1,
            epsilon=_EPSILON,
        )

    def _attention(self, x: str, layer: str) -> str:
        import numpy as np

        hidden = self._shape.hidden
        parts = [f"{layer}.{part}" for part in "qkv"]
        joined = self._linear(x, [f"{part}.w" for part in parts], hidden)
        sizes = self._integers(f"{layer}.sizes", [hidden] * 3)
        self._node("Split", [joined, sizes], parts, axis=-1)
        bias = np.concatenate([self._weights.floats(f"{part}.b") for part in parts])
        attended = self._node(
            "MultiHeadAttention",
            [*parts, self._tensor(f"{layer}.qkv.b", bias)],
            domain=_MICROSOFT,
            num_heads=self._shape.heads,
        )
        return self._add_and_norm(
            self._linear(attended, [f"{layer}.ao.w"], hidden), x, f"{layer}.ao.b", f"{layer}.aln"
        )

    def _feed_forward(self, x: str, layer: str) -> str:
        wide = self._linear(x, [f"{layer}.fi.w"], self._shape.hidden)
        active = self._node("BiasGelu", [wide, self._floats(f"{layer}.fi.b")], domain=_MICROSOFT)
        narrow = self._linear(active, [f"{layer}.fo.w"], self._shape.intermediate)
        return self._add_and_norm(narrow, x, f"{layer}.fo.b", f"{layer}.oln")

    def _add_and_norm(self, x: str, residual: str, bias: str, norm: str) -> str:
        return self._node(
            "SkipLayerNormalization",
            [x, residual, *(self._floats(name) for name in (f"{norm}.w", f"{norm}.b", bias))],
            domain=_MICROSOFT,
            epsilon=_EPSILON,
        )

    def _linear(self, x: str, names: list[str], columns: int) -> str:
        """x times the transposed matrices, side by side, without their biases."""
        import numpy as np

        rows = np.concatenate([_decode(self._weights.quantized(n, columns)) for n in names])
        scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
        whole = np.rint(rows / scales[:, None]).astype(np.int8)
        return self._node(
            "DynamicQuantizeMatMul",
            [
                x,
                self._tensor(f"{names[0]}.int8", whole.T),
                self._tensor(f"{names[0]}.scales", scales),
                self._tensor(f"{names[0]}.zeros", np.zeros(len(scales), np.int8)),
            ],
            domain=_MICROSOFT,
        )

    def _word_table(self) -> tuple[str, str]:
        from onnx import TensorProto, helper

        table = self._weights.quantized("emb.word", self._shape.hidden)
        signed = table.values ^ 0x88  # q - 8 as a two's complement half byte
        shape = [self._shape.vocabulary, self._shape.hidden]
        self._tensors.append(
            helper.make_tensor("emb.word", TensorProto.INT4, shape, signed.tobytes(), raw=True)
        )
        return "emb.word", self._tensor("emb.word.scales", table.scales)

    def _floats(self, name: str) -> str:
        return self._tensor(name, self._weights.floats(name))

    def _integers(self, name: str, values: list[int]) -> str:
        import numpy as np

        return self._tensor(name, np.array(values, np.int64))

    def _tensor(self, name: str, values: NDArray[Any]) -> str:
        import numpy as np
        from onnx import numpy_helper

        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[str] | None = None,
        *,
        domain: str = "",
        **attributes: object,
    ) -> str:
        from onnx import helper

        names = outputs or [f"{operator}_{len(self._nodes)}"]
        self._nodes.append(
            helper.make_node(operator, inputs, names, domain=domain, **attributes)
        )
        return names[0]


def _decode(matrix: Quantized) -> NDArray[np.float32]:
    """The matrix as float32 (rows, columns)."""
    import numpy as np

    rows, blocks, _ = matrix.values.shape
    values = np.empty((rows, blocks, BLOCK), np.float32)
    values[..., 0::2] = matrix.values & 15
    values[..., 1::2] = matrix.values >> 4
    decoded: NDArray[np.float32] = (values - 8) * matrix.scales[..., None]
    return decoded.reshape(rows, -1)
