#!/bin/sh
# One live process per conversation, wherever a cluster starts its jobs:
#
#     sh lease.sh take LEASES HOLDER TTL                                wait until it is ours; print NUMBER and time
#     sh lease.sh keep LEASES HOLDER TTL NUMBER TIME EVERY GRACE MARK OWNER HERE
#                                                                       renew it; end what it covers when it lapses
#     sh lease.sh end MARK GRACE [ROOT …]                               end all processes of a run
#     sh lease.sh hunt MARK GRACE [ROOT …]                              the same; print who was `there`, who `killed`
#
# LEASES is a folder on a file system that all nodes see. A lease is a file in it, named by a number that only rises,
# and only its holder ever writes that file: a write that hung in a cut-off node and lands an hour later harms nobody.
# What holds:
#
# - A number is taken by one holder only (a hard link either is made or is not).
# - The next number is taken only after the present one said `released`, or has not changed for TTL seconds and some
#   slack under the eyes of whoever takes it. No two clocks are ever compared.
# - The holder counts TTL from before its last good renewal, on its own clock since boot, and by the end of it has
#   ended every process that bears MARK (an assignment, in the environment) or stands below a ROOT (PID START).
#   That needs no shared file system and no daemon. It also ends them when a higher number is there, or when the
#   OWNER (PID START) is gone: then it also lets go of the lease.
# - HERE is a folder of the node itself: HERE/keeper is written (the keeper's pid and start time), HERE/roots is read
#   when it comes to ending (a root a line), and HERE/lapsed is made before the first process is ended.
# - It is let go of when HERE/release is there, which TERM makes it look for at once. TERM alone ends nothing: a cluster
#   that cancels a job may send it to all that belongs to it, while the program still lives.
#
# Exit status of keep: 0 released, 70 lapsed, 71 a higher number is there, 72 the owner is gone.

PATH=/usr/local/bin:/usr/bin:/bin
SLACK=5
umask 077

uptime() { # seconds since boot: no clock that somebody sets
    read -r now _ </proc/uptime
    now=${now%.*}
}

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

highest() { # the newest lease's number into $number, 0 where there is none
    number=0
    for path in "$leases"/[0-9]*; do
        name=${path##*/}
        case $name in *[!0-9]*) continue ;; esac
        [ "$name" -gt "$number" ] && number=$name
    done
}

pause() {
    sleep 1 &
    wait "$!"
}

# -- taking -------------------------------------------------------------------------------------------------------

take() { # a hung look costs time, never safety: what is counted is how long nothing was seen to change
    mkdir -p "$leases" || exit 73
    own=$leases/.$holder.$$
    trap 'rm -f "$own"; exit 143' TERM
    seen= since=
    while :; do
        uptime
        before=$now
        highest
        text=$(cat "$leases/$number" 2>/dev/null)
        free=
        [ "$number" -gt 0 ] || free=1
        case $text in released*) free=1 ;; esac
        if [ "$seen" != "$number $text" ]; then
            seen="$number $text"
            uptime
            since=$now
        elif [ $((before - since)) -ge $((ttl + SLACK)) ]; then
            free=1
        fi
        if [ -n "$free" ]; then
            uptime
            next=$((number + 1))
            if printf '%s %s\n' "$holder.$$" 0 >"$own"; then
                ln "$own" "$leases/$next" 2>/dev/null
                # A link whose answer was lost on the way is still ours.
                read -r who _ 2>/dev/null <"$leases/$next"
                rm -f "$own"
                if [ "${who:-}" = "$holder.$$" ]; then
                    [ "$number" -gt 1 ] && rm -f "$leases/$((number - 1))"
                    echo "$next $now"
                    exit 0
                fi
            fi
        fi
        pause
    done
}

# -- keeping ------------------------------------------------------------------------------------------------------

renew() {
    [ ! -e "$leases/$((number + 1))" ] || exit 3
    printf '%s %s\n' "$holder" "$count" 2>/dev/null >"$leases/.$number.new" || exit 1
    mv -f "$leases/.$number.new" "$leases/$number" || exit 1
    [ ! -e "$leases/$((number + 1))" ] || exit 3
    exit 0
}

release() { # STATUS: a renewal under way would write over it; one that hangs says nothing, and the lease runs out by itself
    tries=0
    start_of "${renewing:-none}"
    while [ -n "$start" ] && [ "$tries" -lt 25 ]; do
        tries=$((tries + 1))
        sleep 0.2
        start_of "$renewing"
    done
    [ -n "$start" ] || {
        printf 'released %s\n' "$holder" 2>/dev/null >"$leases/.$number.new" &&
            mv -f "$leases/.$number.new" "$leases/$number"
    }
    exit "$1"
}

keep() {
    renewing= count=0
    trap : HUP INT TERM
    start_of "$$"
    printf '%s %s\n' "$$" "$start" >"$here/.keeper.new" && mv "$here/.keeper.new" "$here/keeper" || exit 73
    deadline=$((taken + ttl)) next=0
    while :; do
        [ ! -e "$here/release" ] || release 0
        uptime
        if [ -n "$renewing" ] && ! kill -0 "$renewing" 2>/dev/null; then
            wait "$renewing"
            case $? in
                0) deadline=$((begun + ttl)) ;;
                3) finish 71 ;;
            esac
            renewing=
        fi
        lives $owner || finish 72
        [ "$now" -lt $((deadline - grace - 1)) ] || finish 70
        if [ -z "$renewing" ] && [ "$now" -ge "$next" ]; then
            begun=$now next=$((now + every)) count=$((count + 1))
            renew 2>/dev/null &
            renewing=$!
        fi
        pause
    done
}

finish() {
    true >"$here/lapsed" # (a `:` that cannot write would end the shell)
    [ ! -e "$here/roots" ] || while read -r root; do quoted "$root"; done <"$here/roots"
    end_all "$grace"
    if [ "$1" = 72 ]; then # nobody waits for it in vain; what its owner had just begun is seen a moment later
        sleep 2
        end_all 0
        release 72
    fi
    exit "$1"
}

# -- ending -------------------------------------------------------------------------------------------------------

members() { # PID of every process that bears the mark, or descends from a root that lives
    grep -lszxF -e "$mark" /proc/[0-9]*/environ 2>/dev/null | sed 's|/proc/\([0-9]*\)/.*|\1|'
    living=
    for root in "$@"; do
        lives $root && living="$living ${root%% *}"
    done
    [ -z "$living" ] || cat /proc/[0-9]*/stat 2>/dev/null | sed 's/ (.*) / /' | awk -v roots="$living" '
        { parent[$1] = $3 }
        END {
            n = split(roots, root, " ")
            for (i = 1; i <= n; i++) below[root[i]] = 1
            do {
                grown = 0
                for (pid in parent) if (!(pid in below) && (parent[pid] in below)) { below[pid] = 1; grown = 1 }
            } while (grown)
            for (pid in below) print pid
        }'
}

known=  # all that were ever seen, as PID:START
killed= # those of them that needed SIGKILL

look() { # add who is there now to $known; whether anybody of them lives into $alive
    for pid in $(members "$@"); do
        start_of "$pid"
        [ "$pid" = "$$" ] || [ -z "$start" ] || case " $known " in
            *" $pid:$start "*) ;;
            *) known="$known $pid:$start" ;;
        esac
    done
    alive=
    for one in $known; do
        lives "${one%:*}" "${one#*:}" && alive="$alive $one"
    done
}

signal_all() { # SIGNAL: to whoever was seen and lives, told by pid and start time
    for one in $alive; do
        lives "${one%:*}" "${one#*:}" && kill "-$1" "${one%:*}" 2>/dev/null || continue
        case "$1 $killed " in
            TERM* | *" $one "*) ;;
            *) killed="$killed $one" ;;
        esac
    done
}

end_all() { # GRACE: TERM, and after that many seconds KILL, until nobody is left
    until_=$1
    shift
    [ -z "$roots" ] || eval "set -- $roots"
    uptime
    until_=$((now + until_))
    look "$@"
    signal_all TERM
    while [ -n "$alive" ]; do
        uptime
        [ "$now" -lt "$until_" ] || signal_all KILL
        sleep 0.2 &
        wait "$!"
        look "$@"
    done
}

roots=

quoted() { # words that each hold a PID and a start time, for eval
    for root in "$@"; do
        case $root in *[!0-9\ ]*) ;; *) roots="$roots '$root'" ;; esac
    done
}

verb=$1
shift
case $verb in
    take)
        leases=$1 holder=$2 ttl=$3
        take
        ;;
    keep)
        leases=$1 holder=$2 ttl=$3 number=$4 taken=$5 every=$6 grace=$7 mark=$8 owner=$9
        here=${10}
        keep
        ;;
    end | hunt)
        trap : HUP INT TERM # a cluster may send these to all that belongs to a job, at any moment
        mark=$1 grace=$2
        shift 2
        quoted "$@"
        end_all "$grace"
        [ "$verb" = end ] || printf '%s\n' "there$known" "killed$killed"
        exit 0
        ;;
    *)
        echo "usage: lease.sh take|keep|end …" >&2
        exit 64
        ;;
esac
