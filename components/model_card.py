"""The model card, as Markdown: what a model is, where it comes from, how good it is, how to call it, its limits.

`text` is the README of a Bento; `review` is what stands beside a version in MLflow for the person who may promote it.
Everything in them is read from the version, its verdict, its bundle and the card of its data.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from components import modalities
from components.moderation import Moderation
from components.records import Check, Dataset, Verdict

if TYPE_CHECKING:
    from components.ledger import Version

KEYS = "/run/atelier/keys.json"  # where a container looks for the keys of its callers
SETTINGS = {
    "ATELIER_KEYS": f"file with the hashed keys of those who may call (in a container: `{KEYS}`)",
    "ATELIER_SIGNING_KEY": "private Ed25519 key in PEM that signs every sample; unsigned without it",
    "ATELIER_JOURNAL": "SQLite file that records who asked for what, and the feedback; none without it",
    "ATELIER_DRAIN_SECONDS": "seconds between turning unready and refusing connections; 0 by default",
    "ATELIER_BLOCK_LISTS": "JSON of words by team that are neither taken nor answered; `*` is every team",
    "ATELIER_LOG_PROMPTS": "1 to write prompts into the log; never by default",
    "ATELIER_OBSERVATIONS": "folder that keeps requests and outputs in numbers, for the monitor; none without it",
    "ATELIER_OBSERVATIONS_MIB": "room for them, beyond which the oldest go; 1024 by default",
    "ATELIER_RELEASE": "another release record than the one inside",
}


def text(
    version: "Version",
    verdict: Verdict,
    bundle: Path,
    *,
    licence: str | None,
    begun: str | None = None,
    synthetic: str | None = None,
) -> str:
    """The card of a version; `begun` names the version that its training went on from, `synthetic` rows of models."""
    model = json.loads((bundle / "config.json").read_bytes())
    endpoint = json.loads((bundle / "endpoint.json").read_bytes())
    parts = [
        f"# {version.model}, version {version.version}",
        f"A generator of the modality {version.modality} and the family `{version.family}`, made by the recipe "
        f"`{version.model}`. It passed every gate of that recipe before it was registered.",
        _table(("", ""), _facts(version, bundle, licence, begun, synthetic)),
        f"## Licence of the data\n\n{licence or 'It was not recorded.'}",
        "## How good it is\n\n" + _numbers(verdict),
        "## How to call it\n\n" + _calls(version, endpoint, edits=model.get("edits", False)),
        "## Limits\n\n" + _limits(verdict, model, endpoint),
    ]
    return "\n\n".join(parts) + "\n"


def review(verdict: Verdict, dataset: Dataset, *, among: int, begun: str | None) -> str:
    """What a reviewer reads before a version becomes champion: its gates, its numbers, its data, its limits.

    MLflow's lists show the first words as they are written, and its pages set tables without room between the cells.
    """
    held = sum(check.passed for check in verdict.checks)
    kind = verdict.family if verdict.candidate == verdict.family else f"{verdict.candidate} ({verdict.family})"
    parts = [
        f"{kind}: {held} of {len(verdict.checks)} gates hold; the best of {among} candidates.",
        "**Gates**, each with the interval that decides it",
        "\n".join(_gate(check) for check in verdict.checks),
        f"**Numbers**: means over {len(verdict.scores.seeds)} seeds of {verdict.scores.samples} samples",
        "\n".join(
            f"- {name} {fmean(values):.4g}" + (f", real rows {real:.4g}" if real is not None else "")
            for name, values in verdict.scores.values.items()
            for real in (verdict.scores.floor.get(name),)
        ),
        "**Data**",
        "\n".join(f"- {name}: {value}" for name, value in _of_data(dataset, begun).items()),
        "**Limits**",
        "\n".join(
            [
                "- The gates measured what is named above and nothing else; what data leave out, models do too.",
                *_encoded(verdict.scores.encoder),
                "- The artifact report.html of its run shows its samples, what looks most like a copy, and its curves.",
            ]
        ),
    ]
    return "\n\n".join(parts)


def _gate(check: Check) -> str:
    outcome = ("holds" if check.passed else "fails") + (f" ({check.reason})" if check.reason else "")
    return f"- **{check.gate}** {outcome}: {check.value:.4g}, between {check.low:.4g} and {check.high:.4g}"


def _of_data(dataset: Dataset, begun: str | None) -> dict[str, str]:
    commit = f", commit {dataset.commit}" if dataset.commit else ""
    left_out = sum(dataset.excluded.values())
    return {
        "what": dataset.about.get("title", dataset.source),
        "rows": f"{dataset.count:,}" + (f", {left_out:,} excluded besides" if left_out else ""),
        "licence": dataset.licence,
        "consent": dataset.about.get("consent", "its card says nothing of it"),
        "from": dataset.about.get("source", "its card says nothing of it"),
        "version": f"{dataset.source} {dataset.version}{commit}",
        **({"went on from": begun} if begun else {}),
        **({"trained on samples of models too": dataset.synthetic} if dataset.synthetic else {}),
    }


def _facts(
    version: "Version", bundle: Path, licence: str | None, begun: str | None, synthetic: str | None
) -> list[tuple[str, str]]:
    weights = (bundle / "model.safetensors").stat().st_size
    return [
        ("weights", f"safetensors, {weights:,} bytes; with their cards `{version.bundle}`"),
        ("data", f"`{version.data}`"),
        ("commit of the data", f"`{version.commit or 'none'}`"),
        ("licence of the data", licence or "not recorded"),
        *([("went on from", f"`{begun}`")] if begun else []),
        *([("trained on samples of models too", synthetic)] if synthetic else []),
        ("recipe", f"`{version.recipe}`"),
        ("MLflow run", f"`{version.run}`"),
        ("verdict", f"`{version.verdict}`"),
        ("registered", version.created),
    ]


def _numbers(verdict: Verdict) -> str:
    scores = verdict.scores
    metrics = [
        (
            name,
            f"{sum(values) / len(values):.4g}",
            f"{min(values):.4g} to {max(values):.4g}",
            _floor(scores.floor, name),
        )
        for name, values in scores.values.items()
    ]
    gates = [
        (check.gate, f"{check.value:.4g}", f"{check.low:.4g} to {check.high:.4g}", "holds" if check.passed else "fails")
        for check in verdict.checks
    ]
    asked = f"{len(scores.seeds)} seeds of {scores.samples} samples, against held-out rows that no training saw"
    return "\n\n".join(
        [
            f"Over {asked}. Real data: half the held-out rows against the rest.",
            _table(("metric", "mean", "over the seeds", "real data"), metrics),
            _table(("gate", "value", "interval", "outcome"), gates),
        ]
    )


def _floor(floor: dict[str, float], name: str) -> str:
    return f"{floor[name]:.4g}" if name in floor else ""


def curl(model: str, *, edits: bool) -> str:
    """What asks a server on this machine for a sample; an answer of an editing model is JSON."""
    if edits:
        return f"curl -s localhost:3000/v1/images/edits -F model={model} -F seed=7 -F image=@picture.png"
    body = json.dumps({"model": model, "seed": 7})
    return f"curl -s localhost:3000/v1/generate -H 'Content-Type: application/json' -d '{body}'"


def _calls(version: "Version", endpoint: dict[str, Any], *, edits: bool) -> str:
    controls = [
        (f"`{name}`", f"`{json.dumps(control, sort_keys=True)}`")
        for name, control in endpoint.get("controls", {}).items()
    ]
    shown = _table(("control", "what it takes"), controls) if controls else "It has no public controls."
    if any(control["default"] is None for control in endpoint.get("controls", {}).values()):
        shown += "\n\nA default of `null` is drawn from the seed of each sample; so is what is asked for as `null`."
    return "\n\n".join(
        [
            "`NAME:VERSION` as in `bento.yaml`, and the Bento in the store that `BENTOML_HOME` names; `torch` is "
            "pinned without its build: name an index of the build you want to pip.",
            "```sh\npip install -r env/python/requirements.txt\nbentoml serve NAME:VERSION --host 127.0.0.1\n"
            f"{curl(version.model, edits=edits)} -o sample\n```",
            "The same seed, controls and version give the same bytes. `GET /v1/models` tells the rest.",
            shown,
            "In a container it listens on port 3000 of every address, and there it starts with keys only. Mount them:",
            f"```sh\ndocker run -p 3000:3000 -v $PWD/keys.json:{KEYS}:ro IMAGE\n```",
            _table(("variable", "what it sets"), [(f"`{name}`", what) for name, what in SETTINGS.items()]),
        ]
    )


def _limits(verdict: Verdict, model: dict[str, Any], endpoint: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"- It makes samples of this form only: `{json.dumps(model['spec'], sort_keys=True)[:600]}`.",
            f"- At most {endpoint.get('max_samples', 16)} samples a request.",
            "- Its gates measured what is named above and nothing else. What the data leave out, so does it.",
            *_encoded(verdict.scores.encoder),
            f"- {_moderated(model, endpoint)}",
        ]
    )


def _moderated(model: dict[str, Any], endpoint: dict[str, Any]) -> str:
    """What is done about what it is asked and answers."""
    policy = Moderation.model_validate(endpoint.get("moderation", {}))
    if not modalities.part(model["modality"], "codec").MEDIA_TYPE.startswith("text/"):
        if policy.images is not None:
            done = "held back" if policy.images.action == "block" else "counted"
            named = ", ".join(policy.images.block)
            return (
                f"What it is given and makes is {done} where the network `{policy.images.model}` is "
                f"{policy.images.at_least:g} sure or more that it shows {named}. No network knows everything."
            )
        return "Nothing filters what it generates; text that it is given is checked."
    return (
        f"Texts that it is given and makes are checked: profanity, {policy.profanity}; personal data, "
        f"{policy.personal_data}; {len(policy.words)} words are blocked besides. No list knows everything."
    )


def _encoded(encoder: str | None) -> list[str]:
    """What the metrics compare with, where they rest on an encoder."""
    if encoder is None:
        return []
    return [
        f"- The metrics are distances in the features of the encoder `{encoder[:19]}`: compare them "
        "with other versions that were scored under the same one, and with no published number."
    ]


def _table(titles: tuple[str, ...], rows: list[Any]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
