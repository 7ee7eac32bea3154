"""The one error tree.

RagError
|-- ConfigError                 a setting is missing or wrong
|-- InputError                  the caller's question, image or parameter is unusable
|   `-- VisionError             images for a model that cannot see
|-- CallerError                 the caller's key is unknown, or does not allow this
|-- NotFoundError               no such knowledge base, document, session or review
|-- LoadError                   one file cannot be read (the run goes on)
|   |-- UnsupportedTypeError
|   |-- EmptyFileError
|   |-- NoTextError             a picture without text, or not read here: left out, not failed
|   |-- EncryptedFileError
|   |-- DamagedFileError
|   `-- FileTooLargeError
|-- EmbedderError               text cannot be turned into vectors
|   `-- EmbedderUnavailableError   a model is not to be had here; the next preference may be
|-- StoreError                  the knowledge base cannot be read or written
|   |-- FingerprintError        it was built with another embedding model
|   |-- BusyError               another process writes to it
|   `-- DamagedStoreError
|-- BudgetError                 the money for models is used up
|-- ToolError                   a tool cannot do what the model asked; its text goes to the model
|-- SchemaError                 the reply does not fit the schema that was asked for
`-- ModelError                  the chat model did not answer
    |-- ModelAuthError          401, 403
    |-- ModelRequestError       400, 404, 422: sending it again cannot help
    |   `-- ContextTooLongError the messages are longer than the model's context
    |-- ModelBusyError          429
    |-- ModelUnavailableError   no connection, time-out, 408, 409, 5xx
    |   |-- ModelTimeoutError   it had the request and said nothing in time
    |   `-- CircuitOpenError    it failed too often; nobody asks it for a while
    |-- ModelStreamError        the stream broke after it began
    `-- ModelFormatError        the reply is not in the OpenAI format
"""

from typing import ClassVar


class RagError(Exception):
    """What went wrong, what to do next, and whether trying again may help.

    `message` is one sentence for a person and never holds a secret; `hint` names the next
    step (often a command) and may be empty; `code` is stable and machine-readable.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(RagError):
    code = "config"


class InputError(RagError):
    code = "input"


class VisionError(InputError):
    code = "no_vision"


class CallerError(RagError):
    code = "caller"


class NotFoundError(RagError):
    code = "not_found"


class LoadError(RagError):
    code = "load"


class UnsupportedTypeError(LoadError):
    code = "unsupported_type"


class EmptyFileError(LoadError):
    code = "empty_file"


class NoTextError(LoadError):
    code = "no_text"


class EncryptedFileError(LoadError):
    code = "encrypted_file"


class DamagedFileError(LoadError):
    code = "damaged_file"


class FileTooLargeError(LoadError):
    code = "file_too_large"


class EmbedderError(RagError):
    code = "embedder"


class EmbedderUnavailableError(EmbedderError):
    code = "embedder_unavailable"


class StoreError(RagError):
    code = "store"


class FingerprintError(StoreError):
    code = "fingerprint"


class BusyError(StoreError):
    code = "busy"
    retryable = True


class DamagedStoreError(StoreError):
    code = "damaged_store"


class BudgetError(RagError):
    code = "budget"


class ToolError(RagError):
    code = "tool"


class SchemaError(RagError):
    code = "schema"


class ModelError(RagError):
    """`retry_after` is what the server asked for, in seconds; None if it asked for nothing."""

    code = "model"

    def __init__(self, message: str, hint: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class ModelAuthError(ModelError):
    code = "model_auth"


class ModelRequestError(ModelError):
    code = "model_request"


class ContextTooLongError(ModelRequestError):
    code = "context_too_long"


class ModelBusyError(ModelError):
    code = "model_busy"
    retryable = True


class ModelUnavailableError(ModelError):
    code = "model_unavailable"
    retryable = True


class ModelTimeoutError(ModelUnavailableError):
    code = "model_timeout"


class CircuitOpenError(ModelUnavailableError):
    code = "circuit_open"


class ModelStreamError(ModelError):
    code = "model_stream"
    retryable = True


class ModelFormatError(ModelError):
    code = "model_format"
