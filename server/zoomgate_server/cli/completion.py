"""Command `zoomgate completion`, which prints shell completion scripts."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL. To enable completion, add the example to the shell's startup file.

    Example: eval "$(zoomgate completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click supports all three  # noqa: S101
    click.echo(kind(context.find_root().command, {}, "zoomgate", "_ZOOMGATE_COMPLETE").source())
