"""The command line. A bad argument or variable, or a part that does not answer, is one line on
stderr and exit code 2.
"""

import sys

import httpx
import pydantic
import sqlalchemy as sa

from marketplace.cli.arguments import complain
from marketplace.cli.arguments import options as read_options
from marketplace.cli.commands import api_description
from marketplace.installation import InstallationError

__all__ = ["api_description", "main"]


def main(arguments: list[str] | None = None) -> None:
    options = read_options(sys.argv[1:] if arguments is None else arguments)
    try:
        code = options.run(options)
    except InstallationError as error:
        complain(str(error))
    except pydantic.ValidationError as error:
        at_fault = ", ".join(
            f"{'.'.join(map(str, each['loc'])).upper()} ({each['msg']})" for each in error.errors()
        )
        complain(f"check these environment variables: {at_fault}")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (reason := _no_answer(error)) is None:
            raise
        complain(reason)
    sys.exit(code or 0)


def _no_answer(error: Exception) -> str | None:
    """What a part that we work with gave instead of an answer; None for a fault of our own."""
    from marketplace.shared.problems import Problem
    from marketplace.stripe_api.polling import STRIPE_ERRORS

    if isinstance(error, STRIPE_ERRORS):
        return f"Stripe does not answer as it should: {error}"
    match error:
        case Problem():
            return error.detail
        case sa.exc.DBAPIError():
            return f"the database does not answer as it should: {error.orig}".partition("\n")[0]
        case sa.exc.TimeoutError():
            return "the database has no connection free"
        case httpx.HTTPError() | ConnectionError() | TimeoutError():
            return f"{type(error).__name__}: {error}"
    return None
