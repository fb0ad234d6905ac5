"""What shells have to read so that Tab completes ``lastrun``: each asks :mod:`runner.completion.answer`."""

from __future__ import annotations

_BASH = r"""
_lastrun() {
    local -a lines
    mapfile -t lines < <(lastrun __complete bash "${COMP_WORDS[COMP_CWORD]#[=:]}" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    COMPREPLY=("${lines[@]:1}")
    COMPREPLY=("${COMPREPLY[@]%%$'\t'*}")
    case "${lines[0]}" in
        files) COMPREPLY=(); compopt -o default ;;
        open) compopt -o nospace ;;
    esac
}
complete -F _lastrun lastrun
"""
_ZSH = r"""
#compdef lastrun
_lastrun() {
    local -a lines found
    local line tab=$'\t'
    lines=("${(@f)$(lastrun __complete zsh '' "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    [[ ${lines[1]} == files ]] && { _files; return }
    for line in "${(@)lines[2,-1]}"; do
        [[ -n $line ]] && found+=("${${line%%$tab*}//:/\\:}${${(M)line:#*$tab*}:+:${line#*$tab}}")
    done
    if [[ ${lines[1]} == open ]]; then _describe lastrun found -S ''; else _describe lastrun found; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
compdef _lastrun lastrun
"""
_FISH = r"""
function __lastrun_complete
    set -l lines (lastrun __complete fish '' (commandline -cp | string collect) 2>/dev/null)
    if test "$lines[1]" = files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $lines[2..-1]
    end
end
complete -c lastrun -f -a '(__lastrun_complete)'
"""
SCRIPTS = {"bash": _BASH.strip() + "\n", "zsh": _ZSH.strip() + "\n", "fish": _FISH.strip() + "\n"}
