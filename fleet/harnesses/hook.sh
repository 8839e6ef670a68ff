#!/bin/sh
# A hook of a coding-agent program: its event, the JSON on stdin, goes into the spool as one file, whole or not at all.
#
#     hook.sh FOLDER            for an agent that fleet launched: into its own folder of the spool
#     hook.sh FOLDER BOX EVENT  the same; then mail.sh tells what waits in the agent's box for this moment, if anything does
#     hook.sh --by-hand SPOOL   for a session started by hand: into the folder of its name; stands aside in fleet's own
#
# Always exits 0 and itself prints nothing: a hook never delays or alters a session. The file's name is
#
#     GENERATION,PROGRAM,CLOCK,PROCESS
#
# the launch (`_BOOT` where fleet launched nothing), the program's pid, the seconds since boot (the clock only rises),
# and this process, whose number tells apart and orders what one hundredth of a second holds. It runs at every tool
# call: everything here is built into the shell, but the copy and the rename.

PATH=/bin:/usr/bin:$PATH
umask 077
trap '' HUP INT TERM

name_by_hand() {
    name=${FLEET_AGENT:-${CLAUDE_AGENT_ID:-${SCITEX_OROCHI_AGENT-}}}
    if [ -z "$name" ]; then
        name=${CLAUDE_PROJECT_DIR:-$PWD}
        name=${name%/}
        name=${name##*/}
    fi
    case $name in
    '' | *[!a-z0-9-]* | -* | *- | ????????????????????????????????????????????????????????????????*)
        name=$(printf %s "$name" | LC_ALL=C tr A-Z a-z | LC_ALL=C tr -cs a-z0-9 - | cut -c 1-64)
        name=${name#-}
        [ ${#name} -le 63 ] || name=${name%?}
        name=${name%-}
        ;;
    esac
    folder=$2/${name:-unnamed}
}

{
    folder=${1-}
    [ "$folder" ] || folder=${FLEET_SPOOL-}
    if [ "$folder" = --by-hand ]; then
        [ -z "${FLEET_GENERATION-}" ] || exit 0
        name_by_hand "$@"
    fi
    [ "$folder" ] || exit 0
    [ -d "$folder" ] || mkdir -p "$folder"

    generation=${FLEET_GENERATION-}
    case $generation in '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*)
        read -r boot </proc/sys/kernel/random/boot_id
        generation=_${boot%%-*}
        ;;
    esac
    program=${CLAUDE_PID:-$PPID}
    case $program in *[!0-9]*) program=0 ;; esac
    read -r clock idle </proc/uptime || clock=$(date +%s)

    file=$generation,$program,$clock,$$
    if cat >"$folder/.$file"; then
        mv -f "$folder/.$file" "$folder/$file"
    else
        rm -f "$folder/.$file"
    fi
} >/dev/null 2>&1
if [ $# = 3 ]; then
    for text in "$2"/b.*; do
        [ ! -f "$text" ] || exec "${0%/*}/mail.sh" "$2" tell "$3"
    done
fi
exit 0
