"""URLs as they may be written down."""

import re


def is_url(source: str) -> bool:
    """Whether a source is a URL, and not a path in the project."""
    return "://" in source


def shown(url: str) -> str:
    """A URL without user, password, query and fragment, in each part of a chain such as `zip://::https://...`."""
    return "::".join(_bare(part) for part in url.split("::"))


def scrubbed(text: str, url: str) -> str:
    """A message of someone else's without what only the whole URL tells."""
    text = text.replace(url, shown(url))
    for part in url.split("::"):
        text = text.replace(part, shown(part))
        place, *asked = re.split("[?#]", part.partition("://")[2], maxsplit=1)
        user = place.partition("/")[0].rpartition("@")[0]
        for secret in (user, *user.split(":"), *asked, *re.split("[&=]", "".join(asked))):
            if len(secret) > 3:  # a shorter one would cut words to pieces
                text = text.replace(secret, "...")
    return text


def _bare(part: str) -> str:
    scheme, separator, rest = part.partition("://")
    if not separator:
        return part
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
