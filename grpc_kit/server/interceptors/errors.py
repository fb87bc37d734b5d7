"""Turns errors into statuses. Nothing else in a service aborts a call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from grpc_kit.errors import ServiceError, clear_frames, meaning_of_fault
from grpc_kit.server.interceptors.around import AroundCalls, Call, Context
from grpc_kit.status import DETAILS_KEY, code_of, to_status

log = structlog.stdlib.get_logger()


def internal_error(error: Exception, method: str) -> ServiceError:
    """Log a fault with its traceback, and return the error for the caller."""
    log.error("call failed", method=method, exc_info=error)
    return meaning_of_fault(error)


class ErrorMapping(AroundCalls):
    """Ends a call that raised with its error's status; for a fault with INTERNAL or OUT_OF_MEMORY, without details."""

    # Reflection may be refused too.
    untouched = "/grpc.health."

    def __init__(self, domain: str) -> None:
        """`domain` is written into every ErrorInfo."""
        super().__init__()
        self._domain = domain

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Aborts the call where it raised."""
        try:
            yield
        except ServiceError as error:
            await self._abort(context, error)
        except asyncio.CancelledError as error:
            clear_frames(error)
            raise
        except grpc.aio.BaseError:
            # gRPC's own way out, such as an abort that is under way.
            raise
        except Exception as error:  # noqa: BLE001 - the last place that can keep a fault's details from the caller
            await self._abort(context, internal_error(error, call.method))

    async def _abort(self, context: Context, error: ServiceError) -> None:
        status = to_status(error, self._domain)
        error.let_go()
        # What others have set for the end of the call, such as the times of its stages, goes with it.
        trailing = (*(context.trailing_metadata() or ()), (DETAILS_KEY, status.SerializeToString()))
        await context.abort(code_of(error), status.message, trailing)
