"""Compare a collection that exists with the one that a caller asked for."""

from grpc_kit.errors import FailedPreconditionError
from imagesearch_client.types import Collection

FIELDS = (
    "model",
    "dimension",
    "fingerprint",
    "metric",
    "index",
    "index_parameters",
    "consistency",
    "ttl",
    "max_regions",
)
# An owner may change these for people; they count only if the caller stated them.
NOTES = ("description", "labels")


def check_agreement(existing: Collection, wanted: Collection) -> None:
    """Check that two collections have the same settings. `wanted` has the service's defaults filled in.

    Raises FailedPreconditionError, which names the first field that differs.
    """
    for field in (*FIELDS, *(note for note in NOTES if getattr(wanted, note))):
        found, asked = getattr(existing, field), getattr(wanted, field)
        if found != asked:
            raise FailedPreconditionError(
                "COLLECTION_DIFFERS",
                f"the collection {existing.name} exists with {field} {_shown(found)}, not {_shown(asked)}; "
                "use another name, or the settings of the existing collection",
                field=f"collection.{field}",
            )


def _shown(value: object) -> str:
    return str(getattr(value, "value", value))
