"""Shared by the tests of the embedders: a scripted server, and a tiny model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fakes import FakeEmbedder

Script = Callable[[dict[str, Any]], tuple[int, Any]]


@dataclass
class EmbeddingServer:
    """A server on loopback that answers as `script` says, and remembers what it was asked."""

    url: str
    script: Script
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def honest(request: dict[str, Any]) -> tuple[int, Any]:
    """Vectors of a FakeEmbedder, not of unit length and in reverse order."""
    vectors = FakeEmbedder(dimension=request.get("dimensions", 16)).embed_documents(
        request["input"]
    )
    data = [
        {"object": "embedding", "index": index, "embedding": [3 * float(x) for x in vector]}
        for index, vector in enumerate(vectors)
    ]
    return 200, {"object": "list", "model": request["model"], "data": data[::-1], "usage": {}}


@contextmanager
def embedding_server(script: Script = honest) -> Iterator[EmbeddingServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            described.requests.append(body)
            described.headers.append({k.lower(): v for k, v in self.headers.items()})
            status, reply = described.script(body)
            raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    described = EmbeddingServer(f"http://127.0.0.1:{server.server_port}/v1", script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield described
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


CHARACTERS = list("的一是在不了有和人这中大为上个国我以要他猫狗鱼吃喜欢今天股市")
WORDS = ["the", "cat", "dog", "eats", "fish", "market", "fell", "today", "query", "passage"]


def write_tiny_model(folder: Path, *, seed: int = 0, prompts: dict[str, str] | None = None) -> Path:
    """A BertModel with random weights and a WordPiece vocabulary, as sentence-transformers saves
    it: mean pooling, no normalisation, 32 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", *CHARACTERS, *WORDS]
    parts = folder.with_name(folder.name + "-parts")
    parts.mkdir(parents=True)
    (parts / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).eval().save_pretrained(parts)
    BertTokenizerFast(
        vocab={word: place for place, word in enumerate(vocabulary)}, model_max_length=32
    ).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    if prompts:
        model.prompts = prompts
    model.save(str(folder))
    return folder
