#!/bin/bash
# What a batch job of fleet does, below the options and values that slurm_script.py writes above it (bash).
#
# A job is submitted with one script, and so are its successor at the walltime and its return after a requeue: each
# time the script runs is a **run**, with the number of the lease that it holds. The folder:
#
#   env first again     written before: the environment, and how to start the program, afresh and in its conversation
#   began               the program has been started once; from then on runs use `again`
#   run                 the number of the newest run
#   run.N/              one run: what the launcher notes (env claim launcher program exit), and
#     job               job id, restart count, node
#     pane              the multiplexer and its socket on the node
#     hub               where the hub's socket is to be on the node, if the agent speaks to it
#     walltime          `signal` or `deadline`, with the time: its end is near
#     leave             put there by whoever wants the run to end now, the conversation being written down
#     handover          a folder, made by whoever submits the successor: it is submitted once
#     successor         the successor's job id
#     refused           why it could not be submitted
#     withdrawn         the successor's job id, which this run has cancelled itself
#     told              what SLURM wrote into the job's output when it told the job to end
#     ended             why the run ended: exited, multiplexer, walltime, left, told, stopped, lease, or a sentence
#
# The file $wanted names the generation that a person wants up. A run that does not find its own there starts nothing
# and submits nothing.

note() { # NAME TEXT: in this run's folder, whole or not at all
    printf '%s\n' "$2" >"$run/.$1.new" && mv -f "$run/.$1.new" "$run/$1"
}

clock() {
    printf -v now '%(%s)T' -1
}

wanted() {
    [ "$(cat "$wanted" 2>/dev/null)" = "$generation" ]
}

unwanted() { # not being able to read it is no word
    local text
    text=$(cat "$wanted" 2>/dev/null) && [ "$text" != "$generation" ]
}

identity() { # PID: "PID START", nothing where it is gone
    local stat
    if read -r stat 2>/dev/null <"/proc/$1/stat"; then
        set -- "$1" ${stat##*) }
        [ "$2" = Z ] || printf '%s %s' "$1" "${21}"
    fi
}

lives() { # "PID START"
    [ -n "$1" ] && [ "$(identity "${1%% *}")" = "$1" ]
}

pause() { # [SECONDS]: one, or less when a signal comes: traps do not wait for a foreground command
    sleep "${1:-1}" &
    wait "$!"
}

attend() { # PID: its status when it ends, whatever signals come meanwhile; TERM is passed on
    local status passed=
    while :; do
        wait "$1"
        status=$?
        [ -n "$(identity "$1")" ] || break
        if [ -n "$ended" ] && [ -z "$passed" ]; then
            kill "$1" 2>/dev/null
            passed=1
        fi
    done
    if [ "$status" -gt 128 ]; then # a signal may have cut the wait short
        wait "$1" 2>/dev/null
        [ "$?" = 127 ] || status=$?
    fi
    return "$status"
}

end_all() { # GRACE [ROOT …]: nobody of the run is left; begun again where a signal to all of the job met it untrapped
    local tries=0
    until sh "$lease" end "$job_mark" "$@" || [ "$tries" -ge 30 ]; do
        tries=$((tries + 1))
        pause 0.1
    done
}

give_up() { # STATUS WHY
    echo "fleet: $2" >&2
    [ -z "${run:-}" ] || note ended "$2"
    [ -z "${keeper:-}" ] || kill "${keeper%% *}" 2>/dev/null
    exit "$1"
}

ask_end() { # the job's end into $end; what it was, where the controller does not answer or a cancel has made it now
    local told
    told=$(SLURM_TIME_FORMAT=%s timeout 25 squeue --noheader --jobs="$SLURM_JOB_ID" --format='%T %e' 2>/dev/null)
    case $told in
        'RUNNING '*[!0-9]* | 'RUNNING ') ;;
        'RUNNING '*) end=${told#RUNNING } ;;
    esac
}

# -- this node ------------------------------------------------------------------------------------------------------

clock
end=$((now + limit))
node=${SLURMD_NODENAME:-$(uname -n)}
restarts=${SLURM_RESTART_COUNT:-0}
export HOME
job_mark=FLEET_JOB=$SLURM_JOB_ID@$node
base=/tmp/fleet-$UID
mkdir -m 700 "$base" 2>/dev/null
[ -O "$base" ] && [ ! -L "$base" ] && [ -d "$base" ] || give_up 73 "$base is somebody else's"
here=$base/$SLURM_JOB_ID.$node
socket=$here/tmux
bare() { env -i PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 "$@"; }
on_server() { bare tmux -u -S "$socket" -f /dev/null "$@"; }

wanted || give_up 0 "it is not wanted any more"

# Leftovers of an earlier run of this job on this node.
if [ -d "$here" ]; then
    on_server kill-server 2>/dev/null
    end_all "$grace"
    rm -rf "$here"
fi
mkdir -p "$here" || give_up 73 "$here cannot be made"

# -- the lease ------------------------------------------------------------------------------------------------------

holder=$SLURM_JOB_ID.$restarts.$node
sh "$lease" take "$leases" "$holder" "$ttl" >"$here/lease" &
taking=$!
attend "$taking" || give_up 75 "the lease was not taken"
read -r number taken <"$here/lease"
holder=$holder.$taking
run=$folder/run.$number
mkdir "$run" || give_up 73 "$run cannot be made"
note job "$SLURM_JOB_ID $restarts $node"
(setsid sh "$lease" keep "$leases" "$holder" "$ttl" "$number" "$taken" "$every" "$grace" \
    "$job_mark" "$(identity "$$")" "$here" </dev/null >/dev/null 2>&1 &)
tries=0
until [ -s "$here/keeper" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || give_up 73 "the lease's keeper did not start"
    pause 0.1
done
keeper=$(cat "$here/keeper")
printf '%s\n' "$number" >"$folder/.run.new" && mv -f "$folder/.run.new" "$folder/run"

# -- the program ----------------------------------------------------------------------------------------------------

mine=$generation how=first
if [ -e "$folder/began" ]; then
    mine=$generation.r$number how=again
    [ -e "$folder/again" ] || give_up 75 "it ran before, and how to go on was not said"
fi

hub= # a socket named by the environment is of another machine
! grep -q "^FLEET_HUB='/" "$folder/env" || hub=$here/hub

env -i HOME="$HOME" PATH=/usr/local/bin:/usr/bin:/bin timeout "$pre_agent_within" /bin/sh -c '
    umask 077
    set -a
    . "$1/env" || exit
    FLEET_GENERATION=$2 FLEET_LAUNCH=$3 FLEET_RUN=$4 TMUX=$5
    FLEET_JOB=${6#FLEET_JOB=} TERM=$8
    [ -z "$9" ] || FLEET_HUB=$9
    eval "$7" || exit
    export -p >"$3/env"' fleet-env "$folder" "$mine" "$run" "$number" "$here/own,0,0" "$job_mark" "$pre_agent" "$term" \
    "$hub" >&2 &
attend "$!"
status=$?
[ "$status" = 0 ] || give_up 78 "a pre_agent hook failed with status $status"
if [ -n "$ended" ] || ! wanted; then
    give_up 0 "it is not wanted any more"
fi

on_server "${tmux_start[@]}" ||
    give_up 69 "tmux did not start"
# The mark stands before the program's first word is looked for.
on_server new-session -d -s "$agent" -x "$width" -y "$height" -c / -- /bin/sh "$folder/$how" "$run" ';' \
    set-option -t "=$agent:" @fleet "$generation" ';' \
    select-pane -t "=$agent:" -T '' ';' \
    resize-window -t "=$agent:" -x "$width" -y "$height" ||
    give_up 69 "tmux opened no session"
server=$(identity "$(on_server display-message -p '#{pid}')")
[ -z "$hub" ] || note hub "$hub"
note pane "tmux
$socket"
tries=0
until [ -s "$run/program" ] || [ -s "$run/exit" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || break
    pause 0.1
done
launcher_process=$(cat "$run/launcher" 2>/dev/null)
printf '%s\n' "$server" "$launcher_process" >"$here/roots"
[ ! -e "$run/program" ] || : >"$folder/began"

# -- watching -------------------------------------------------------------------------------------------------------

submit() { # the successor, once; whoever made the folder submits
    wanted || return
    mkdir "$run/handover" 2>/dev/null || return
    local said
    if said=$(env -i PATH="$PATH" HOME="$HOME" USER="${USER:-}" ${SLURM_CONF:+SLURM_CONF="$SLURM_CONF"} \
        timeout 60 sbatch --parsable --dependency=singleton "$folder/job" 2>&1); then
        successor=${said##*$'\n'}
        successor=${successor%%;*}
        note successor "$successor"
        wanted || withdraw
    else
        note refused "$said"
    fi
}

withdraw() {
    [ -n "$successor" ] || return
    note withdrawn "$successor"
    timeout 20 scancel "$successor"
}

prepare() { # the end is near
    clock
    note walltime "$walltime $now"
    [ -z "$auto_resubmit" ] || submit
    ask_end # it may have been given more time since, or less
    walltime_hooks
}

ask_end
successor='' preparing='' why='' asked='' ticks=0
while [ -z "$why" ]; do
    clock
    if [ -z "$walltime" ] && [ "$now" -ge $((end - before)) ]; then
        if [ -z "$asked" ]; then # it may have been given more time since
            asked=1
            ask_end
        fi
        [ "$now" -lt $((end - before)) ] || walltime=deadline
    fi
    if [ -n "$ended" ]; then
        why=told
    elif [ -e "$here/lapsed" ] || ! lives "$keeper"; then
        why=lease
    elif ! lives "$server"; then
        why=multiplexer
    elif ! lives "$launcher_process"; then
        why=exited
    elif [ -n "$walltime" ] && [ -z "$preparing" ]; then
        preparing=1
        prepare
    elif [ -e "$run/leave" ]; then
        why=left
    elif [ $((ticks += 1)) -ge 5 ] && ticks=0 && unwanted; then
        why=stopped
    elif [ -n "$preparing" ] && [ "$now" -ge $((end - grace - 20)) ]; then
        why=walltime
    else
        pause
    fi
done

# -- the end --------------------------------------------------------------------------------------------------------

case $why in
    exited | multiplexer | lease) # a cancel ends these too, and a look at them, before this script hears of it
        [ -n "$ended" ] || pause
        [ -z "$ended" ] || why=told ;;
esac
clock
case $why in
    told) [ "$now" -ge $((end - 5)) ] || withdraw ;; # ended before its time: a cancel, and what it submitted goes too
    exited | multiplexer | stopped) withdraw ;;      # what follows is for its restart policy, or a person, to say
esac
if [ "$(on_server display-message -p -t "=$agent:" '#{alternate_on}' 2>/dev/null)" = 1 ]; then
    on_server capture-pane -p -t "=$agent:" >"$run/.screen.new" # what was up; below it what it says on leaving
fi
end_all "$grace"
tries=0 # the launcher notes the program's end, and then is gone
until ! lives "$launcher_process" || [ "$tries" -ge 50 ]; do
    tries=$((tries + 1))
    pause 0.1
done
on_server capture-pane -p -t "=$agent:" >>"$run/.screen.new" 2>/dev/null && mv -f "$run/.screen.new" "$run/screen"
end_all 2 "$launcher_process" "$server"
post_agent_hooks
if [ "$why" = told ]; then
    note told "$(grep -a "^slurmstepd.* JOB $SLURM_JOB_ID ON .* CANCELLED AT " "/proc/$$/fd/2" 2>/dev/null | tail -n 1)"
fi
note ended "$why"
true >"$here/release" && kill "${keeper%% *}" || kill -KILL "${keeper%% *}" # lets go of the lease, or lets it run out
while lives "$keeper"; do pause; done
rm -rf "$here"
status=$(cat "$run/exit" 2>/dev/null)
[ "$why" != exited ] || exit "${status:-1}"
exit 0
