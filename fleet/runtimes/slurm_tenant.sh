#!/bin/sh
# Starts one tenant of a booking in its pane, under the lease of its conversation:
#
#     env -i /bin/sh slurm_tenant.sh LEASES HOLDER TTL EVERY GRACE HERE LEASE LAUNCHER FOLDER CWD PROGRAM [ARGUMENT …]
#
# The pane waits for the lease, and then becomes the launcher. Beside it, in a session of its own, stands a guard: it
# takes the lease and has lease.sh keep it; when the pane's process is gone it ends what is left of the launch, and
# only then lets go of the lease. Where the keeper lapses or is gone, the guard ends the launch, and where the guard
# is gone, the keeper does.
#
# FOLDER/taking  written first: the lease is being waited for
# FOLDER/lease   its number: it is held
# FOLDER/lapsed  why the launch was ended with it
# FOLDER/claim   read: there before the launcher makes it, the launch was ended before it began
# HERE           a folder of the node itself, as lease.sh has it; HERE/go lets the pane go on

PATH=/usr/local/bin:/usr/bin:/bin

start_of() { # PID: its start time into $start, nothing where it is gone
    start=
    if read -r stat 2>/dev/null <"/proc/$1/stat"; then
        set -- ${stat##*) }
        [ "$1" = Z ] || start=${20}
    fi
}

lives() { # PID START
    start_of "$1"
    [ -n "$start" ] && [ "$start" = "$2" ]
}

tries=0
moment() { # a short one; once it takes long, a longer one
    tries=$((tries + 1))
    if [ "$tries" -lt 60 ]; then sleep 0.05; else sleep 1; fi
}

note() { # NAME TEXT
    printf '%s\n' "$2" >"$folder/.$1.new" && mv -f "$folder/.$1.new" "$folder/$1"
}

# -- the pane -------------------------------------------------------------------------------------------------------

if [ "$1" != --guard ]; then
    start_of "$$"
    guard=$(setsid /bin/sh "$0" --guard "$$ $start" "$@" </dev/null >/dev/null 2>&1 & echo "$!")
    here=$6 launcher=$8 folder=$9
    until [ -e "$here/go" ]; do
        [ ! -e "$folder/claim" ] || exit 0
        start_of "$guard"
        if [ -z "$start" ]; then
            echo "fleet: the lease of the conversation could not be taken" >&2
            exit 75
        fi
        moment
    done
    shift 8
    exec /bin/sh "$launcher" "$@"
fi

# -- the guard ------------------------------------------------------------------------------------------------------

pane=$2
shift 2
leases=$1 holder=$2 ttl=$3 every=$4 grace=$5 here=$6 lease=$7 folder=$9
mark=FLEET_GENERATION=${folder##*/}
umask 077
trap : HUP INT TERM

leave() { # STATUS
    rm -rf "$here"
    exit "$1"
}

rm -rf "$here"
mkdir -p "$here" || exit 73
note taking "$holder" || leave 73
/bin/sh "$lease" take "$leases" "$holder" "$ttl" >"$here/lease" &
taking=$!
start_of "$taking"
while [ -n "$start" ]; do
    lives $pane || kill "$taking" 2>/dev/null
    moment
    start_of "$taking"
done
wait "$taking"
read -r number taken <"$here/lease" || leave 75
holder=$holder.$taking
start_of "$$"
(setsid /bin/sh "$lease" keep "$leases" "$holder" "$ttl" "$number" "$taken" "$every" "$grace" \
    "$mark" "$$ $start" "$here" </dev/null >/dev/null 2>&1 &)
tries=0
until [ -s "$here/keeper" ]; do
    [ "$tries" -lt 90 ] || leave 73
    moment
done
keeper=$(cat "$here/keeper")
printf '%s\n' "$pane" >"$here/roots"
note lease "$number"
: >"$here/go"

lapsed=
while lives $pane; do
    if [ -e "$here/lapsed" ] || ! lives $keeper; then
        lapsed=1
        break
    fi
    sleep 1
done

[ -z "$lapsed" ] || note lapsed "its lease could not be renewed" & # where that hangs, it must end all the same
/bin/sh "$lease" end "$mark" "$grace" "$pane"
true >"$here/release" && kill "${keeper%% *}" || kill -KILL "${keeper%% *}" # lets go of the lease, or lets it run out
while lives $keeper; do sleep 0.2; done
leave 0
