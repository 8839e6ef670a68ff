#!/bin/sh
# Stands beside one agent, the same on every runtime and multiplexer, and lives exactly as long as its program:
#
#     env -i /bin/sh launcher.sh FOLDER CWD PROGRAM [ARGUMENT …]
#
# FOLDER/env       read: sh-quoted assignments, the program's whole environment (0600)
# FOLDER/claim     made first, by one launcher only: a folder is one launch
# FOLDER/launcher  written: pid and start time of this shell
# FOLDER/program   written before the program runs: its pid and start time
# FOLDER/exit      written last: its exit status, 128 + N for signal N
#
# Each is written beside and renamed, so that whoever reads it reads all of it.
# Start time: field 22 of /proc/PID/stat, `-` where there is none.

PATH=/usr/local/bin:/usr/bin:/bin

mask=$(umask) # the program's; what is noted here is nobody else's to read

note() {
    umask 077
    printf '%s\n' "$2" >"$folder/$1.new" && mv -f "$folder/$1.new" "$folder/$1"
    noted=$?
    umask "$mask"
    return "$noted"
}

identity() {
    if read -r stat 2>/dev/null <"/proc/$$/stat"; then
        set -- ${stat##*) }
        printf '%s %s' "$$" "${20}"
    else
        printf '%s -' "$$"
    fi
}

if [ "$1" = --program ]; then
    folder=$2
    cd "$3" || exit 72
    unset OLDPWD
    shift 3
    note program "$(identity)" || exit 73
    set -a
    . "$folder/env"
    set +a
    exec "$@"
fi

folder=$1
# Handlers, for what is ignored would be inherited: the program gets every signal, and its status is noted still.
trap : INT QUIT TSTP HUP TERM
umask 077
set -C
: >"$folder/claim" || exit 73
set +C
umask "$mask"
note launcher "$(identity)" || exit 73
exec 3>&2 2>/dev/null # the shell's own word on how its child died is no line of the program's
/bin/sh "$0" --program "$@" 2>&3 3>&-
note exit "$?"
