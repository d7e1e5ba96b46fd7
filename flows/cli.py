"""The command `atelier`: typer and rich at the top, everything heavier inside the command that needs it."""

import json
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from components.errors import AtelierError, missing_package
from flows import console, data_commands, workspace

if TYPE_CHECKING:
    from flows.promotion import Promoted

app = typer.Typer(
    help="Data to gated, registered, packaged and served generative models.",
    epilog="Exit codes: 0 passed, 1 internal error, 2 bad input, 3 data rejected, 4 no candidate passed its gates, "
    "130 stopped by Ctrl-C. With several recipes, the highest of theirs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys_app = typer.Typer(
    help="Make, list and revoke API keys; make the key that signs; enrol and revoke approvers.", no_args_is_help=True
)
app.add_typer(keys_app, name="keys")
feedback_app = typer.Typer(help="What people thought of samples, as data.", no_args_is_help=True)
app.add_typer(feedback_app, name="feedback")
app.add_typer(data_commands.app, name="data")
schedule_app = typer.Typer(
    help="What runs by itself: apply what recipes say, list it, pause, resume, remove, or run it now.",
    no_args_is_help=True,
)
app.add_typer(schedule_app, name="schedule")
STOPPED = 130
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what the vendors log.")] = False,
) -> None:
    """Data to gated, registered, packaged and served generative models."""


def main() -> None:
    """Run the command line; a person's mistake is one paragraph and an exit code, never a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a scheduler's stop cleans up as Ctrl-C does
        signal.signal(number, _stop)
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code)
    except typer.TyperException as error:
        _complain(" ".join(error.format_message().split()) or "name a command, as in `atelier run fashion`", 2)
    except (KeyboardInterrupt, typer.Abort):
        _complain("stopped. The same command goes on from where it was.", STOPPED)
    except AtelierError as error:
        _complain(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        _complain(str(missing_package(error)), 2)
    except OSError as error:
        _complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except Exception as error:  # noqa: BLE001 - the last door: anything else is ours, and is said so
        _complain(f"internal error: {type(error).__name__}: {error}. `atelier --debug ...` shows where.", 1)


def _stop(number: int, frame: object) -> None:
    """Stop here, or at the next stage where a vendor swallows the interruption."""
    console.STOPPING.set()
    raise KeyboardInterrupt


def _complain(message: str, code: int) -> None:
    if _debugging():
        traceback.print_exc()
    if "--json" in sys.argv[1:]:
        _print_json({"schema": 1, "error": message, "exit_code": code})
    Console(stderr=True).print(Text.assemble(("atelier: ", "bold red"), message), soft_wrap=True)
    sys.exit(code)


@app.command()
def run(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes: files, or names of files in flows/recipes.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="path=value over the recipe, as in candidates.vae.train.steps=100")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take each recipe through the whole line, from its data to a served sample."""
    from flows import caching, running

    caching.freeze()
    shown = _console(stderr=as_json)
    with console.quiet_output() if as_json else nullcontext():
        results = [running.run(_recipe(path), tuple(settings or ()), shown, debug=_debugging()) for path in recipes]
    if as_json:
        summaries = [result.summary for result in results]
        errors = [f"{summary['recipe']}: {summary['error']}" for summary in summaries if "error" in summary]
        _print_json({"schema": 1, "runs": summaries, **({"error": " ".join(errors)} if errors else {})})
    if worst := max(result.exit_code for result in results):
        raise typer.Exit(worst)


@app.command()
def explain(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a file, or the name of one in flows/recipes.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="path=value over the recipe, as in `run`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do, stage by stage, and what changed since the last one, without doing it."""
    from flows import running

    with console.quiet_output() if as_json else nullcontext():
        plan = running.explain(_recipe(recipe), tuple(settings or ()), debug=_debugging())
    if as_json:
        _print_json({"schema": 1, "recipe": str(recipe), "stages": plan.as_json()})
    else:
        _console().print(plan.table())


@app.command("ls")
def list_models(
    everything: Annotated[bool, typer.Option("--all", help="Every version, however many there are.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered models, their versions and aliases."""
    from flows import listing

    found = listing.models(_enter(Path.cwd()))
    if as_json:
        _print_json(found)
    else:
        _console().print(listing.table(found, most=None if everything else 5))


@app.command()
def show(model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]")], as_json: AsJson = False) -> None:
    """Show one version: its verdict, its gates, and where it comes from."""
    from flows import listing

    found = listing.version(_enter(Path.cwd()), model)
    if as_json:
        _print_json(found)
    else:
        _console().print(listing.card(found))


@app.command()
def report(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="Of the last run, or of a version's own.")],
    *,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
    as_json: AsJson = False,
) -> None:
    """Open the page of a run: its candidates side by side, gates, evidence, curves, data and lineage."""
    from flows import listing

    page = listing.report(_enter(Path.cwd()), model)
    if as_json:
        _print_json({"schema": 1, "page": str(page)})
        return
    _console().print(str(page), highlight=False, soft_wrap=True)
    if show:
        typer.launch(page.as_uri())


@app.command()
def monitor(
    model: str,
    window: Annotated[
        str | None, typer.Option(help="How far back to look, as in 6h; the recipe's unless said.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare what a champion is asked and answers with how it began: exit code 0 where nothing drifted, else 2."""
    from flows import watching

    found = watching.by_hand(_enter(Path.cwd()), model, window=window)
    if as_json:
        _print_json(found.as_dict())
    else:
        _console().print(watching.shown(found))
    if found.drift.alarms:
        raise typer.Exit(2)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="A version; the challenger where left out.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "promoted by hand",
    as_json: AsJson = False,
) -> None:
    """Make a version that passed its gates the champion, and package it."""
    from flows import promotion

    _tell(promotion.promote(_enter(Path.cwd()), model, reason=reason), as_json=as_json)


@app.command()
def rollback(
    model: str,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "rolled back by hand",
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again."""
    from flows import promotion

    _tell(promotion.rollback(_enter(Path.cwd()), model, reason=reason), as_json=as_json)


@app.command()
def history(model: str, as_json: AsJson = False) -> None:
    """List every move of a model's aliases: when, who and why."""
    from flows import promotion

    found = promotion.history(_enter(Path.cwd()), model)
    if as_json:
        _print_json(found)
    else:
        _console().print(promotion.table(found))


@app.command()
def trace(
    what: Annotated[str, typer.Argument(metavar="FILE|REQUEST-ID|BENTO", help="A sample, a JSON answer, ...")],
    manifest: Annotated[Path | None, typer.Option(help="The manifest of a sample that carries none inside.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what made a sample, back to the data, and whether it was altered since: exit code 0 intact, 2 otherwise."""
    from flows import tracing

    told = tracing.trace(_enter(Path.cwd()), what, manifest=manifest)
    if as_json:
        _print_json(told)
    else:
        _console().print(tracing.report(told))
    if not told["intact"]:
        raise typer.Exit(2)


@app.command()
def approve(
    model: Annotated[str, typer.Argument(metavar="MODEL@VERSION")],
    name: Annotated[str, typer.Option("--as", help="The approver; `atelier keys add-approver` enrols one.")],
    key: Annotated[Path | None, typer.Option(help="The approver's private key, where it lies elsewhere.")] = None,
    as_json: AsJson = False,
) -> None:
    """Approve a version with an approver's key, where its recipe asks for approvals."""
    from flows import approvers

    given = approvers.approve(_enter(Path.cwd()), model, name=name, key=key)
    if as_json:
        _print_json(given)
        return
    count = f"{len(given['given'])} of the {given['needed']} approvals it needs" if given["needed"] else "it needs none"
    _console().print(f"[green]+[/green] {given['model']}@{given['version']} is approved by {name}: {count}")


@keys_app.command("make")
def make_key(
    team: Annotated[str, typer.Argument(help="Who it is for; requests are counted by it.")],
    models: Annotated[str, typer.Option(help="The models it opens, with commas; all where left out.")] = "*",
    as_json: AsJson = False,
) -> None:
    """Make an API key for a team, and print it, this once."""
    from flows import keys

    names = [name.strip() for name in models.split(",") if name.strip()]
    made = keys.make(_enter(Path.cwd()), team, models=names)
    if as_json:
        _print_json(made)
        return
    sys.stdout.write(made["key"] + "\n")
    Console(stderr=True).print(
        f"the key {made['id']} of {team} for {', '.join(made['models'])}; it is shown this once. Calls send it as "
        "`Authorization: Bearer KEY`.", soft_wrap=True,
    )  # fmt: skip


@keys_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the API keys: whose, for what, since when, and whether revoked."""
    from flows import keys

    found = keys.found(_enter(Path.cwd()))
    if as_json:
        _print_json(found)
    else:
        _console().print(keys.table(found))


@keys_app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="ID", help="Its id, as `atelier keys list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke an API key: from now on it opens nothing."""
    from flows import keys

    revoked = keys.revoke(_enter(Path.cwd()), key)
    if as_json:
        _print_json(revoked)
    else:
        _console().print(f"[green]+[/green] the key {revoked['id']} of {revoked['team']} is revoked")


@keys_app.command("init-signing")
def init_signing(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new key; what older ones signed stays valid.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the key that signs samples and Bentos, unless there is one."""
    from flows import keys

    signing = keys.init_signing(_enter(Path.cwd()), rotate=rotate)
    if as_json:
        _print_json(signing)
    else:
        what = "new; endpoints sign with it once they start again" if signing["made"] else "there already"
        _console().print(
            f"[green]+[/green] the signing key {signing['key_id']} is {what}: {signing['private']}", soft_wrap=True
        )


@keys_app.command("init-approver")
def init_approver(name: str, as_json: AsJson = False) -> None:
    """Make an approver's key pair in the workspace, unless there is one, and enrol it in the ledger."""
    from flows import approvers

    made = approvers.init(_enter(Path.cwd()), name)
    _tell_approver(made, f"may approve with the key {made['key_id']}: {made['private']}", as_json=as_json)


@keys_app.command("add-approver")
def add_approver(
    name: str,
    public: Annotated[Path, typer.Argument(metavar="PUBLIC.pem", help="The file of their public key.")],
    as_json: AsJson = False,
) -> None:
    """Enrol an approver by a public key; the private one stays with its owner, for `atelier approve --key FILE`."""
    from flows import approvers

    added = approvers.add(_enter(Path.cwd()), name, public)
    _tell_approver(added, f"may approve with the key {added['key_id']}", as_json=as_json)


@keys_app.command("revoke-approver")
def revoke_approver(name: str, as_json: AsJson = False) -> None:
    """Revoke an approver's key: it approves nothing more, and what it approved no longer counts for later moves."""
    from flows import approvers

    revoked = approvers.revoke(_enter(Path.cwd()), name)
    _tell_approver(revoked, f"may no longer approve: the key {revoked['key_id']} is revoked", as_json=as_json)


def _tell_approver(approver: dict[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(approver)
    else:
        _console().print(f"[green]+[/green] {approver['name']} {words}", soft_wrap=True)


@app.command()
def package(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="A version; the champion where left out.")],
    container: Annotated[bool, typer.Option(help="Make a container image of it as well.")] = False,
    check: Annotated[bool, typer.Option(help="Install and serve it in a clean environment, and compare.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the Bento of a version where it is missing, and say where it lies."""
    from flows import champions, leash, listing

    place = _enter(Path.cwd())
    leash.tie()
    made = champions.deliver(listing.find(place, model), place, container=container, check=check)
    if as_json:
        _print_json(made.as_dict())
    else:
        for line in made.lines():
            _console().print(line, soft_wrap=True)


@app.command()
def serve(
    model: Annotated[str | None, typer.Argument(help="The model to serve; the only one where left out.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 3000,
    as_json: AsJson = False,
) -> None:
    """Serve the Bento of a champion until Ctrl-C: POST /v1/generate."""
    from components import packaging
    from flows import champions, leash, listing

    place = _enter(Path.cwd())
    leash.tie()
    made = champions.package(listing.only(place, model), place)
    if made is None:
        raise AtelierError(f"{model} has no champion yet, and nothing else is served: its versions wait for approvals.")
    packaging.refuse_taken(host, port)
    url = f"http://{host}:{port}"
    if as_json:
        _print_json({"schema": 1, "model": made.model, "version": made.version, "bento": made.tag, "url": url})
    else:
        Console(stderr=True).print(f"serving {made.model}@{made.version} on {url}, until Ctrl-C")
    packaging.serve(made.tag, home=place.bentos, host=host, port=port, settings=champions.settings(place))


@app.command()
def up(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.", min=1, max=65535)] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect.", min=1, max=65535)] = 4200,
    controller_port: Annotated[int, typer.Option(help="Port of the controller.", min=1, max=65535)] = 3001,
    port: Annotated[int, typer.Option(help="Port of the endpoints.", min=1, max=65535)] = 3000,
    worker_port: Annotated[int, typer.Option(help="Port of the worker.", min=1, max=65535)] = 3002,
    host: Annotated[str, typer.Option(help="Address of the endpoints; all else stays on loopback.")] = "127.0.0.1",
) -> None:
    """Run the platform until Ctrl-C: MLflow and Prefect with their pages, controller, endpoints, the worker."""
    place = _enter(Path.cwd())
    from flows import platform

    ports = platform.Ports(
        mlflow=mlflow_port, prefect=prefect_port, controller=controller_port, endpoints=port, worker=worker_port
    )
    wanted = platform.Platform(place, ports, host=host)
    shown = _console(stderr=True)

    def say(words: str) -> None:
        shown.print(Text(words, "dim"), soft_wrap=True)

    say("starting; the first time takes a while")
    platform.up(wanted, say=say, ready=lambda running: shown.print(platform.table(wanted, running)))


@schedule_app.command("apply")
def apply_schedules(
    recipes: Annotated[
        list[Path] | None, typer.Argument(help="Recipes; all of flows/recipes where left out.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make Prefect's deployments and automations what the recipes' `schedule:`, `retrain:` and `monitor:` say."""
    place = _enter(Path.cwd())
    from flows import schedules

    paths = [_recipe(path) for path in recipes] if recipes else sorted(Path("flows/recipes").glob("*.yaml"))
    with console.quiet_output() if as_json else nullcontext():
        told = schedules.apply(place, paths)
    if as_json:
        _print_json(told)
        return
    for what in ("made", "kept", "removed"):
        if told[what]:
            _console().print(f"[green]+[/green] {what}: {', '.join(told[what])}")
    if not any(told[what] for what in ("made", "kept", "removed")):
        _console().print("no recipe asks for anything: give one a `schedule:` or a `retrain:`")
    elif workspace.servers(place) is None:
        _console().print("runs are started by the worker of `atelier up`, which is not running here now")


@schedule_app.command("list")
def list_schedules(as_json: AsJson = False) -> None:
    """List what is scheduled, and when it starts next."""
    place = _enter(Path.cwd())
    from flows import schedules

    with console.quiet_output() if as_json else nullcontext():
        found = schedules.listed(place)
    if as_json:
        _print_json(found)
    else:
        _console().print(schedules.table(found))


@schedule_app.command("pause")
def pause_schedule(model: str, as_json: AsJson = False) -> None:
    """Start no more runs of a model, by the clock or by events, until it is resumed."""
    _set_paused(model, paused=True, as_json=as_json)


@schedule_app.command("resume")
def resume_schedule(model: str, as_json: AsJson = False) -> None:
    """Let the starts of a model go on."""
    _set_paused(model, paused=False, as_json=as_json)


@schedule_app.command("remove")
def remove_schedule(model: str, as_json: AsJson = False) -> None:
    """Take what is scheduled of a model out of Prefect; the recipe stays, and `apply` would bring it back."""
    from flows import schedules

    schedules.remove(_enter(Path.cwd()), model)
    if as_json:
        _print_json({"schema": 1, "model": model, "removed": True})
    else:
        _console().print(f"[green]+[/green] {model} starts no more by itself")


@schedule_app.command("run")
def run_scheduled(
    model: str, reason: Annotated[str, typer.Option(help="Why, for the record.")] = "", as_json: AsJson = False
) -> None:
    """Have the worker run a scheduled model now."""
    from flows import schedules

    made = schedules.run(_enter(Path.cwd()), model, detail=reason)
    if as_json:
        _print_json({"schema": 1, "model": model, "flow_run": made})
    else:
        _console().print(f"[green]+[/green] the worker will run {model}: flow run {made}")


def _set_paused(model: str, *, paused: bool, as_json: bool) -> None:
    from flows import schedules

    one = schedules.pause(_enter(Path.cwd()), model, paused=paused)
    if as_json:
        _print_json({"schema": 1, "model": one.model, "paused": one.paused})
    else:
        _console().print(f"[green]+[/green] {one.model} is {'paused' if one.paused else 'on again'}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show whether the platform is well, and whether ledger, MLflow and endpoints agree on every champion."""
    from flows import status as standing

    found = standing.examine(_enter(Path.cwd()))
    if as_json:
        _print_json(found)
    else:
        _console().print(standing.shown(found))
    if not found["well"]:
        raise typer.Exit(2)


@app.command()
def tidy(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only shown.")] = False,
    keep: Annotated[int, typer.Option(help="So many of each kind stay whatever their age.", min=1)] = 5,
    older_than: Annotated[str, typer.Option(help="What is younger stays, as in 30d or 12h.")] = "30d",
    retire: Annotated[bool, typer.Option("--retire", help="Give older versions up for good, bytes and all.")] = False,
    dvc_cache: Annotated[
        bool, typer.Option("--dvc-cache", help="Old data out of DVC's cache too, where the remote holds them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what nobody needs any more, and why the rest stays; remove it with --yes."""
    from flows import tidy as housekeeping

    place = _enter(Path.cwd())
    policy = housekeeping.Policy(keep=keep, seconds=housekeeping.age(older_than), retire=retire, dvc_cache=dvc_cache)
    items = housekeeping.apply(place, policy) if yes else housekeeping.plan(place, policy)
    if as_json:
        _print_json(housekeeping.as_json(items, done=yes))
    else:
        _console().print(housekeeping.shown(items, done=yes))


@app.command()
def restore(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]")],
    to: Annotated[Path, typer.Option(help="The folder to fill; it must be new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Bring back the data, the shards and the bundle of a version, byte for byte."""
    from flows import listing

    restored = listing.restore(_enter(Path.cwd()), model, to)
    if as_json:
        _print_json(restored)
    else:
        for part in restored["parts"]:
            _console().print(f"[green]+[/green] {part['path']}  [dim]{part['digest']}[/dim]", soft_wrap=True)


@app.command()
def synthesize(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="A version; the champion where left out.")],
    rows: Annotated[int, typer.Option(help="How many samples to keep.", min=1)],
    labels: Annotated[
        str | None, typer.Option(help="Labels to ask for, with commas between; every class where left out.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="It lies in data/synthetic-NAME; the model's where left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed; the seeds after it follow.", min=0)] = 0,
    controls: Annotated[
        list[str] | None, typer.Option("--control", help="A control of every sample, as in truncation=0.8.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe whose suite is asked; the model's own where left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a dataset of a version's samples: held against real rows, checked by its recipe's suite, kept by DVC."""
    import yaml

    place = _enter(Path.cwd())
    from components.synthesis import Wish
    from flows import caching
    from flows import synthesize as synthesizing

    caching.freeze()
    given = {}
    for control in controls or ():
        key, equals, value = control.partition("=")
        if not equals:
            raise AtelierError(f"--control {control!r} is not of the form name=value, as in truncation=0.8")
        given[key] = yaml.safe_load(value)
    wish = Wish(rows=rows, seed=seed, labels=tuple(labels.split(",") if labels else ()), controls=given)
    with console.quiet_output() if as_json else nullcontext():
        path = None if recipe is None else _recipe(recipe)
        made = synthesizing.run(place, model, wish, name=name, path=path, shown=_console(stderr=as_json))
    if as_json:
        _print_json(made)
    else:
        _console().print(synthesizing.told(made))


@feedback_app.command()
def export(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    as_json: AsJson = False,
) -> None:
    """Write a model's rejected samples, drawn again, and its pairs into data/feedback-MODEL, which DVC keeps."""
    place = _enter(Path.cwd())
    from flows import feedback

    shown = _console(stderr=True)
    made = feedback.export(place, model, say=lambda words: shown.print(words, soft_wrap=True))
    if as_json:
        _print_json(made)
    else:
        for line in feedback.lines(made):
            _console().print(line, soft_wrap=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that this machine and this workspace can run a recipe, and say how to mend what cannot."""
    from flows import health

    checks = health.examine(Path.cwd())
    if as_json:
        _print_json({"schema": 1, "checks": [check.as_dict() for check in checks]})
    else:
        _console().print(health.table(checks))
    if not all(check.good for check in checks):
        raise typer.Exit(2)


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from components import recipe

    _print_json(recipe.schema())


def _tell(promoted: "Promoted", *, as_json: bool) -> None:
    if as_json:
        _print_json(promoted.as_dict())
        return
    move = promoted.move
    before = f", instead of version {move.previous}" if move.previous else ""
    _console().print(f"[green]+[/green] {move.model}@{move.version} is champion{before}; packaged as {promoted.bento}")


def _debugging() -> bool:
    return "--debug" in sys.argv[1:]


def _enter(start: Path) -> workspace.Workspace:
    place = workspace.find(start)
    workspace.enter(place, debug=_debugging())
    return place


def _console(*, stderr: bool = False) -> Console:
    """The console; a log has no width of its own, and gets one in which tables read well."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 120)


def _recipe(path: Path) -> Path:
    """The file of a recipe, which may be named by its stem alone."""
    named = Path("flows/recipes") / f"{path}.yaml"
    return named if not path.exists() and path.suffix == "" and named.is_file() else path


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()
