#!/bin/sh
# Stands between the launcher of a headless agent's turn and its program, and keeps its time limit where there is no
# daemon to do so:
#
#     turn_limit.sh TIMEOUT SECONDS GRACE PROGRAM [ARGUMENT …]
#
# TIMEOUT is timeout(1): it ends the program and its process group. What has moved to another session bears the turn's
# mark, which every process of a turn inherits (FLEET_TURN), and is ended by that: all but the launcher, which is to
# note the exit status, and this shell.

timer=$1 limit=$2 grace=$3
shift 3
"$timer" -k "$grace" "$limit" "$@"
status=$?
case $status in
124 | 137)
    for environ in $(grep -lzxF "FLEET_TURN=$FLEET_TURN" /proc/[0-9]*/environ 2>/dev/null); do
        pid=${environ#/proc/} pid=${pid%/environ}
        if [ "$pid" != $$ ] && [ "$pid" != "$PPID" ]; then
            kill -KILL "$pid" 2>/dev/null
        fi
    done
    ;;
esac
exit "$status"
