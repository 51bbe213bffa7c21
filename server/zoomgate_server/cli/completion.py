"""`zoomgate completion`: let the shell complete commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL. Put the example's line into the shell's start file.

    Example: eval "$(zoomgate completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click brings all three  # noqa: S101
    click.echo(kind(context.find_root().command, {}, "zoomgate", "_ZOOMGATE_COMPLETE").source())
