#!/bin/bash
# The steps of all jobs that fleet looks at from a login node, over one ssh channel, and their runs' notes (bash).
#
#     slurm_login.sh FOLDER       requests on stdin, a line each; answers on stdout, a line each
#
#     open ID WORD<tab>WORD …     start a command; its words hold no tab and no newline
#     say ID TEXT                 a line for its standard input
#     close ID                    end it
#     notes ID FOLDER RUN NAME …  what the launch in FOLDER has noted: the number of its newest run, and these of RUN's
#
# An answer begins with the ID. Of a command: `+PIECE` of a line and `=PIECE`, its last; `!WORDS` when it has ended,
# with what it wrote to its standard error. Of notes: `#NUMBER`, then for each note `@NAME` and its lines as `=LINE`, and
# at last `.`.
#
# No answer is longer than a pipe takes in one piece, so that those who answer at the same time do not mix. FOLDER is made
# here, and taken away by the next connection: then, and when the channel ends, all of it ends.

LC_ALL=C
export LC_ALL
umask 077
here=$1
mkdir -p "$here" || exit 1
declare -A pids inputs
exec > >(exec cat)
case $(awk -W version 2>&1 </dev/null) in mawk*) awk=(awk -W interactive) ;; *) awk=(awk) ;; esac

leave() {
    [ "${#pids[@]}" = 0 ] || kill -KILL "${pids[@]}" 2>/dev/null
    rm -rf "$here"
}
trap leave EXIT
trap 'exit 0' HUP INT TERM PIPE

tell() { # ID: what comes on stdin, in pieces; then the end
    "${awk[@]}" -v id="$1" '{
        while (length($0) > 3000) { print id " +" substr($0, 1, 3000); fflush(); $0 = substr($0, 3001) }
        print id " =" $0; fflush()
    }'
    local said
    said=$(tail -c 1000 "$here/$1.err" 2>/dev/null | tr '\n' ' ')
    rm -f "$here/$1.in" "$here/$1.err"
    printf '%s !%s\n' "$1" "$said"
}

begin() { # ID WORDS
    local words input
    IFS=$'\t' read -r -a words <<<"$2"
    : >"$here/$1.err" && mkfifo "$here/$1.in" || { printf '%s !%s\n' "$1" "$here cannot be written"; return; }
    "${words[@]}" <"$here/$1.in" 2>"$here/$1.err" > >(tell "$1") &
    pids[$1]=$!
    disown "$!" # so that its end is told by no word of bash's
    exec {input}<>"$here/$1.in" # opened both ways, it neither waits for the command nor fails when that has ended
    inputs[$1]=$input
}

finish() { # ID
    local input=${inputs[$1]:-}
    [ -n "$input" ] || return
    kill -KILL "${pids[$1]}" 2>/dev/null
    exec {input}>&-
    unset "pids[$1]" "inputs[$1]"
}

notes() { # ID FOLDER RUN NAME …
    local id=$1 folder=$2 run=$3 number='' name text line
    shift 3
    { IFS= read -r number <"$folder/run"; } 2>/dev/null
    printf '%s #%s\n' "$id" "$number"
    for name; do
        { IFS= read -r -d '' text <"$folder/run.$run/$name"; } 2>/dev/null
        [ -n "$text" ] || continue
        printf '%s @%s\n' "$id" "$name"
        while IFS= read -r line; do
            printf '%s =%s\n' "$id" "${line:0:3000}"
        done <<<"${text%$'\n'}"
        text=
    done
    printf '%s .\n' "$id"
}

begun=
while :; do
    if IFS= read -r -t 10 line; then
        line=$begun$line begun=
    elif [ "$?" -gt 128 ]; then # nothing came, or a part of a line
        begun=$begun$line
        [ -d "$here" ] || exit 0
        continue
    else
        exit 0
    fi
    verb=${line%% *} line=${line#* }
    id=${line%% *} line=${line#* }
    case $verb in
        open) begin "$id" "$line" ;;
        say) [ -z "${inputs[$id]:-}" ] || printf '%s\n' "$line" >&"${inputs[$id]}" ;;
        close) finish "$id" ;;
        notes)
            IFS=' ' read -r -a words <<<"$line"
            notes "$id" "${words[@]}"
            ;;
    esac
done
