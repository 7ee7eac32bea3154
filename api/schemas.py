"""The shapes of requests and responses, as OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rag.bases import DEFAULT
from rag.types import Filters, Message

_QUESTION = "How many days of annual leave do I have after ten years?"


def _whole(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half a character")
    return text


# JSON can spell half of a surrogate pair, which no encoder takes.
Text = Annotated[str, AfterValidator(_whole)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FiltersBody(_Request):
    """Values of one field are alternatives; fields are combined."""

    documents: list[str] = Field(default=[], description="Ids or names of documents.")
    tags: list[str] = []
    paths: list[str] = Field(default=[], description="Shell patterns on the name: hr/*.")
    types: list[str] = Field(default=[], description="pdf, md, ...")

    def filters(self) -> Filters:
        return Filters(
            documents=tuple(self.documents),
            tags=tuple(self.tags),
            paths=tuple(self.paths),
            types=tuple(self.types),
        )


class Turn(_Request):
    role: Literal["user", "assistant"]
    content: Text

    def message(self) -> Message:
        return Message(self.role, self.content)


class AskBody(_Request):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"question": _QUESTION},
                {"question": "工作满十年有多少天年假？", "top_k": 3, "stream": True},
                {"question": _QUESTION, "filters": {"paths": ["hr/*"]}, "session_id": "7c1d"},
            ]
        },
    )

    question: Text
    knowledge_base: str = DEFAULT
    session_id: Text | None = Field(default=None, min_length=1, max_length=64)
    history: list[Turn] | None = Field(
        default=None, max_length=100, description="Earlier turns; used instead of the session's."
    )
    images: list[str] = Field(default=[], description="Data URLs: data:image/png;base64,...")
    model: str | None = Field(default=None, description="A model offered here, or 'extractive'.")
    preset: str | None = Field(default=None, description="How to answer: `GET /models` lists them.")
    tools: list[str] | None = Field(
        default=None,
        max_length=20,
        description="What the model may call, in place of the preset's.",
    )
    output_schema: dict[str, Any] | None = Field(
        default=None, alias="schema", description="A JSON schema that the answer has to fit."
    )
    top_k: int | None = Field(default=None, ge=1, le=50)
    filters: FiltersBody = FiltersBody()
    cache: bool = Field(default=True, description="False asks anew, whatever is kept.")
    stream: bool = False


class CompleteBody(_Request):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"before": "def total(prices):\n    return ", "name": "cart.py"}]
        },
    )

    before: Text = Field(max_length=200_000, description="The file up to the cursor.")
    after: Text = Field(default="", max_length=200_000, description="The file from the cursor on.")
    name: Text = Field(default="", max_length=200, description="The file's name.")
    knowledge_base: str = DEFAULT
    model: str | None = None
    preset: str | None = None
    top_k: int | None = Field(default=None, ge=1, le=50)
    filters: FiltersBody = FiltersBody()
    stream: bool = False


class CitationBody(BaseModel):
    """`quote` is `text[start:end]` of the document, counted in Unicode code points."""

    n: int
    document_id: str
    document: str
    page: int | None
    sheet: str | None
    row: int | None
    heading: list[str]
    quote: str
    start: int
    end: int
    score: float


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = Field(description="The server reported none.")
    cost: float | None = Field(description="US dollars; null where a price is not known.")


class TimingsBody(BaseModel):
    """Seconds from the start of the question."""

    retrieved: float
    first_token: float | None
    total: float


class AnswerBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answer": "15 days [1].",
                    "refused": False,
                    "citations": [
                        {
                            "n": 1,
                            "document_id": "5f0c8a4be0a1d9c2",
                            "document": "hr/leave.docx",
                            "page": None,
                            "sheet": None,
                            "row": None,
                            "heading": ["Annual leave"],
                            "quote": "From ten years of service on: 15 days.",
                            "start": 311,
                            "end": 349,
                            "score": 0.86,
                        }
                    ],
                    "model": "gpt-5.1",
                    "usage": {
                        "prompt_tokens": 912,
                        "completion_tokens": 9,
                        "estimated": False,
                        "cost": 0.00123,
                    },
                    "timings": {"retrieved": 0.012, "first_token": 0.41, "total": 0.56},
                    "notice": "",
                    "cached": False,
                    "data": None,
                    "session_id": None,
                }
            ]
        }
    )

    answer: str
    refused: bool
    citations: list[CitationBody]
    model: str
    usage: UsageBody
    timings: TimingsBody
    notice: str
    cached: bool = Field(description="Replayed; `usage` is what it cost the first time.")
    data: Any = Field(description="The answer as JSON, where a schema was asked for.")
    session_id: str | None


class HeldBody(BaseModel):
    """The answer waits for a person's approval: `GET /reviews/{review_id}` tells of it."""

    review_id: str
    reason: str


class CompletionBody(BaseModel):
    completion: str
    model: str
    usage: UsageBody
    timings: TimingsBody


class RetrieveBody(_Request):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": _QUESTION, "top_k": 3}]}
    )

    question: Text
    knowledge_base: str = DEFAULT
    top_k: int | None = Field(default=None, ge=1, le=50)
    filters: FiltersBody = FiltersBody()
    threshold: float | None = Field(default=None, ge=0, le=1)


class HitBody(BaseModel):
    n: int
    document_id: str
    document: str
    title: str
    page: int | None
    sheet: str | None
    row: int | None
    heading: list[str]
    text: str
    start: int
    end: int
    score: float
    dense: float
    keyword: float
    via: Literal["dense", "keyword", "both"]


class RetrieveResponse(BaseModel):
    hits: list[HitBody]


class DocumentBody(BaseModel):
    id: str
    name: str
    type: str
    title: str
    size: int
    tags: list[str]
    chunks: int
    updated_at: str


class DocumentsResponse(BaseModel):
    documents: list[DocumentBody]
    generation: int


class FailureBody(BaseModel):
    name: str
    code: str
    reason: str
    hint: str


class IngestResponse(BaseModel):
    added: list[str]
    changed: list[str]
    unchanged: list[str]
    removed: list[str]
    failed: list[FailureBody]
    chunks: int
    generation: int


class DeletedResponse(BaseModel):
    deleted: str


class HealthResponse(BaseModel):
    status: Literal["ok"] = "ok"
    version: str


class DefaultModel(BaseModel):
    name: str
    vision: bool
    extractive: bool
    reads_images: bool = Field(description="Pictures may be sent: seen, or their text read.")
    ocr: bool = Field(description="The text in pictures is read, whichever model answers.")


class ModelBody(BaseModel):
    """A model that may be asked for. `circuit` is closed, open (nobody asks it) or half_open."""

    name: str
    profile: str
    id: str
    vision: bool
    tools: bool
    context_window: int
    tags: list[str]
    circuit: Literal["closed", "open", "half_open"]
    recent_failures: int
    probing_in: float | None = Field(description="Seconds until an open circuit is tried.")
    rejected_keys: list[str]
    first_token_seconds: float | None = Field(description="Moving average.")


class ModelsResponse(BaseModel):
    default: str
    models: list[ModelBody]
    presets: list[str]
    tools: list[str]


class CostBody(BaseModel):
    key: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    estimated_calls: int
    unknown_cost_calls: int
    cost: float


class BudgetBody(BaseModel):
    budget: str
    period: str
    limit: float
    spent: float
    reserved: float
    share: float


class CostsResponse(BaseModel):
    """US dollars; days and months are those of UTC."""

    by: Literal["day", "model", "caller", "session"]
    rows: list[CostBody]
    total: float
    budgets: list[BudgetBody]


class ReviewBody(BaseModel):
    """`answer` is null for everyone but reviewers until it is approved."""

    id: str
    created_at: str
    state: Literal["waiting", "approved", "rejected"]
    reason: str
    knowledge_base: str
    question: str
    answer: dict[str, Any] | None
    reviewer: str
    decided_at: str
    note: str


class ReviewsResponse(BaseModel):
    reviews: list[ReviewBody]


class DecisionBody(_Request):
    approve: bool
    note: Text = Field(default="", max_length=2000, description="For the asker.")


class KnowledgeBaseStatus(BaseModel):
    name: str
    documents: int
    chunks: int
    generation: int
    embedding: str


class StatusResponse(BaseModel):
    version: str
    model: DefaultModel
    knowledge_bases: list[KnowledgeBaseStatus]
