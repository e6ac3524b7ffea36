"""``completion``: what a shell needs to complete commands and options."""

from enum import StrEnum
from typing import Annotated

import typer

from storage_lib.cli.command import COMPLETION_VARIABLE, NAME, Run, command, commands

app = commands()


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


@command(app, "completion", store=False)
async def completion(
    run: Run, shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")]
) -> None:
    """Write the completion script of a shell. Its own start-up file evaluates it:

    bash: eval "$(agent-storage completion bash)" in ~/.bashrc

    zsh: eval "$(agent-storage completion zsh)" in ~/.zshrc, after compinit

    fish: agent-storage completion fish | source, in ~/.config/fish/config.fish

    powershell: agent-storage completion powershell | Out-String | Invoke-Expression, in $PROFILE
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name=NAME, complete_var=COMPLETION_VARIABLE, shell=shell.value)
    run.out.text(script + "\n")
