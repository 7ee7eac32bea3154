"""The least that passes on a model's stream: `python -m benchmarks.relay MODEL_URL PORT`.

Starlette, uvicorn as `rag serve` runs it, and the `openai` client; nothing between them.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


def main() -> None:
    model_url, port = sys.argv[1:]
    client = AsyncOpenAI(base_url=model_url, api_key="none", max_retries=0)

    async def ask(request: Request) -> Response:
        question = (await request.json())["question"]

        async def told() -> AsyncIterator[str]:
            stream = await client.chat.completions.create(
                model="scripted", stream=True, messages=[{"role": "user", "content": question}]
            )
            async for part in stream:
                yield f"data: {part.model_dump_json()}\n\n"

        return StreamingResponse(told(), media_type="text/event-stream")

    async def healthy(_request: Request) -> Response:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/ask", ask, methods=["POST"]), Route("/healthz", healthy)])
    uvicorn.run(app, port=int(port), log_level="info")


if __name__ == "__main__":
    main()
