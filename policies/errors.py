"""Every way in which a call can end badly, as one tree.

    ThemisError
    ├── CallerError                 the caller can mend it
    │   ├── InvalidRequest  400     ├── Unauthenticated  401    ├── Forbidden  403
    │   ├── UnknownModel    404     ├── UnknownPath      404    ├── MethodNotAllowed  405
    │   └── BodyTooLarge    413
    ├── Overloaded                  waiting helps
    │   ├── QueueFull       429     ├── WaitedTooLong    503    └── NoReplica  503
    ├── EngineFailed                the engine's side broke
    │   ├── ReplicaLost     502       it vanished; before the first byte the call is tried elsewhere
    │   ├── OverCredit      503       the replica took no more from this gateway; tried elsewhere, unseen
    │   ├── EngineGarbage   502       it answered what no client could read
    │   └── EngineSilent    504       it sent nothing for too long
    ├── DeadlineExceeded    504
    └── ClientLeft                  nobody is there to be told
        ├── ClientGone      499
        └── ClientStalled   499

`status`, `type` and `code` are OpenAI's (https://platform.openai.com/docs/guides/error-codes).
"""

from typing import Any, ClassVar


class ThemisError(Exception):
    """A call's bad end, with all that its HTTP answer needs."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross actors; without this they would lose their keyword arguments, and their type with them.
        return _rebuild, (type(self), self.message, self.param, self.retry_after_s)

    def envelope(self) -> dict[str, Any]:
        """The body of the answer, in OpenAI's shape."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


def _rebuild(kind: type[ThemisError], message: str, param: str | None, retry_after_s: float | None) -> ThemisError:
    return kind(message, param=param, retry_after_s=retry_after_s)


class CallerError(ThemisError):
    type = "invalid_request_error"


class InvalidRequest(CallerError):
    status = 400
    code = "invalid_request"


class Unauthenticated(CallerError):
    status = 401
    code = "invalid_api_key"


class Forbidden(CallerError):
    status = 403
    code = "forbidden"


class UnknownModel(CallerError):
    status = 404
    code = "model_not_found"


class UnknownPath(CallerError):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(CallerError):
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(CallerError):
    status = 413
    code = "body_too_large"


class Overloaded(ThemisError):
    status = 503
    type = "overloaded_error"


class QueueFull(Overloaded):
    status = 429
    code = "queue_full"


class WaitedTooLong(Overloaded):
    code = "waited_too_long"


class NoReplica(Overloaded):
    code = "no_replica"


class EngineFailed(ThemisError):
    status = 502


class ReplicaLost(EngineFailed):
    code = "replica_lost"


class OverCredit(EngineFailed):
    status = 503
    code = "over_credit"


class EngineGarbage(EngineFailed):
    code = "engine_garbage"


class EngineSilent(EngineFailed):
    status = 504
    code = "engine_silent"


class DeadlineExceeded(ThemisError):
    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class ClientLeft(ThemisError):
    status = 499
    code = "client_left"


class ClientGone(ClientLeft):
    code = "client_gone"


class ClientStalled(ClientLeft):
    code = "client_stalled"
