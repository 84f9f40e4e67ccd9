"""Make the completion files of bash, zsh and fish: each function returns one file's text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy.completion.source.words import DIRECTORY, FILE, PROGRAM, Command, Flag, Value

_MADE = f"# Completion of {PROGRAM}. `make completion` writes this file from the program's command line."

_FUNCTION = "_kvm_exit_exporter"
_DEEP, _CONTINUED = "\t\t\t\t", " \\"


def bash(commands: Sequence[Command]) -> str:
    """Return the file for bash 4.4 and newer. It uses no function of the package bash-completion."""
    program, *subcommands = commands
    names = " ".join(command.name for command in subcommands)
    return f"""\
{_MADE}
# shellcheck shell=bash
{_FUNCTION}() {{
	local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command="" word
	# readline splits --flag=value into three words.
	if [[ $current == = ]]; then
		current=""
	elif [[ $before == = ]]; then
		before=${{COMP_WORDS[COMP_CWORD - 2]}}
	fi
	for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
		case $word in {names.replace(" ", " | ")}) command=$word && break ;; esac
	done
	COMPREPLY=()
	local flags words="" files=""
	case $command in
{"".join(_bash_command(command) for command in subcommands)}\
	*)
		flags="{" ".join(program.names)}" words="{names}"
		;;
	esac
	if [[ $files ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen "$files" -- "$current")
	else
		[[ $current != -* ]] || words=$flags
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
	fi
}}
complete -F {_FUNCTION} {PROGRAM}
"""


def _bash_command(command: Command) -> str:
    cases: dict[str, list[str]] = {}
    for flag in command.flags:
        if flag.value:
            cases.setdefault(_bash_value(flag.value), []).extend(flag.names)
    lines = [f"{command.name})", f'\tflags="{" ".join(command.names)}"', "\tcase $before in"]
    lines += [f'\t{" | ".join(names)}) {value}flags="" ;;' for value, names in cases.items()]
    others = "".join(_bash_value(value) for value in command.positionals)
    if others:
        lines.append(f"\t*) [[ $current == -* ]] || {others.strip()} ;;")
    lines += ["\tesac", "\t;;"]
    return "".join(f"\t{line}\n" for line in lines)


def _bash_value(value: Value) -> str:
    if value.kind:
        return f"files={'-d' if value.kind == DIRECTORY else '-f'} "
    return f'words="{" ".join(value.words)}" ' if value.words else ""


def zsh(commands: Sequence[Command]) -> str:
    """Return the file for zsh's completion system. It must be in a folder of zsh's fpath."""
    program, *subcommands = commands
    described = _lines("\t\t\t", (_quoted(f"{command.name}:{command.help}") for command in subcommands))
    flags = _lines("\t", (_zsh_flag(flag, alone=True) for flag in program.flags), _CONTINUED)
    cases = "".join(
        f"\t\t{command.name})\n\t\t\t_arguments -s -S{_lines(_DEEP, _zsh_command(command), _CONTINUED)}\n\t\t\t;;\n"
        for command in subcommands
    )
    return f"""\
#compdef {PROGRAM}
{_MADE}
local curcontext=$curcontext state line
typeset -A opt_args
_arguments -C{flags} \\
	'1:command:->command' \\
	'*::argument:->arguments'
case $state in
	command)
		local -a commands=({described}
		)
		_describe command commands
		;;
	arguments)
		case $words[1] in
{cases}\
		esac
		;;
esac
"""


def _lines(indent: str, texts: Iterable[str], end: str = "") -> str:
    return "".join(f"{end}\n{indent}{text}" for text in texts)


def _zsh_command(command: Command) -> list[str]:
    flags = [_zsh_flag(flag) for flag in command.flags]
    # Leave out a positional without suggestions: zsh would show a message about it instead of the flags.
    return flags + [_quoted(f":{value.name}{_zsh_value(value)}") for value in command.positionals if value.kind]


def _zsh_flag(flag: Flag, *, alone: bool = False) -> str:
    group = "(- *)" if alone or "--help" in flag.names else "*" if flag.repeated else f"({' '.join(flag.excluded)})"
    # With = after a long flag and + after a short one, zsh accepts the value attached or as the next word.
    names = [name + ("" if not flag.value else "=" if name.startswith("--") else "+") for name in flag.names]
    text = flag.help.translate({ord(character): f"\\{character}" for character in "[]:\\"})
    rest = f"[{text}]" + (f":{flag.value.name}{_zsh_value(flag.value)}" if flag.value else "")
    if len(names) == 1:
        return _quoted(group + names[0] + rest)
    return f"{_quoted(group)}{{{','.join(names)}}}{_quoted(rest)}"


def _zsh_value(value: Value) -> str:
    if value.words:
        return f":({' '.join(value.words)})"
    return {FILE: ":_files", DIRECTORY: ":_files -/"}.get(value.kind, ":")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(commands: Sequence[Command]) -> str:
    """Return the file for fish 3."""
    program, *subcommands = commands
    lines = [_MADE, _fish("-f"), *(_fish("-n __fish_use_subcommand", _fish_flag(flag)) for flag in program.flags)]
    for command in subcommands:
        chosen = f'-n "__fish_seen_subcommand_from {command.name}"'
        lines.append(_fish("-n __fish_use_subcommand", f"-a {command.name} -d {_fish_quoted(command.help)}"))
        lines += [_fish(chosen, _fish_flag(flag)) for flag in command.flags]
        lines += [_fish(chosen, "-F") for value in command.positionals if value.kind]
    return "\n".join(lines) + "\n"


def _fish(*parts: str) -> str:
    return " ".join((f"complete -c {PROGRAM}", *parts))


def _fish_flag(flag: Flag) -> str:
    parts = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    if flag.value:
        parts.append("-r -F" if flag.value.kind else "-x")
        parts += [f"-a '{' '.join(flag.value.words)}'"] if flag.value.words else []
    return " ".join((*parts, "-d", _fish_quoted(flag.help)))


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
