"""Maps exceptions to gRPC statuses. No other part of a service aborts a call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from grpc_kit.errors import ServiceError, clear_frames, error_for_fault
from grpc_kit.server.interceptors.context_interceptor import Call, Context, ContextInterceptor
from grpc_kit.status import DETAILS_KEY, code_of, to_status

log = structlog.stdlib.get_logger()


def internal_error(error: Exception, method: str) -> ServiceError:
    """Log a fault with its traceback, and return the error for the caller."""
    log.error("call failed", method=method, exc_info=error)
    return error_for_fault(error)


class ErrorMapping(ContextInterceptor):
    """Ends a failed call with the status of its error. A fault of the server becomes INTERNAL or OUT_OF_MEMORY."""

    # Only health calls are exempt. Reflection calls can be refused, so their errors are mapped.
    untouched = "/grpc.health."

    def __init__(self, domain: str) -> None:
        """Create the interceptor; `domain` is the domain of every ErrorInfo."""
        super().__init__()
        self._domain = domain

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Abort the call if it raises an exception."""
        try:
            yield
        except ServiceError as error:
            await self._abort(context, error)
        except asyncio.CancelledError as error:
            clear_frames(error)
            raise
        except grpc.aio.BaseError:
            # gRPC's own exceptions, such as an abort.
            raise
        except Exception as error:  # noqa: BLE001 - no details of a fault may reach the caller
            await self._abort(context, internal_error(error, call.method))

    async def _abort(self, context: Context, error: ServiceError) -> None:
        status = to_status(error, self._domain)
        error.release_frames()
        # Other interceptors may have set trailing metadata, such as the duration of each stage.
        trailing = (*(context.trailing_metadata() or ()), (DETAILS_KEY, status.SerializeToString()))
        await context.abort(code_of(error), status.message, trailing)
