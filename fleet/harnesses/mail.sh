#!/bin/sh
# Mail for a Claude Code that fleet launched: out of the launch's box, into the program's conversation.
#
#     mail.sh BOX watch EVENT   at SessionStart and CwdChanged: the program is to watch BOX/bell
#     mail.sh BOX ring          at FileChanged, with asyncRewake: what lies in the box goes to stderr, and 2 wakes
#     mail.sh BOX tell EVENT    at a tool's end (from hook.sh): what is meant to cause no turn goes in beside its result
#
# Fleet renames a text into the box (`d.KEY` to ring for, `b.KEY` to tell, as a JSON string) and then writes to `bell`.
# It is taken by a rename into `taken`, so it has one taker, whose process stands in its new name: `KEY,PID`. Nothing
# here deletes it: fleet does, once its words are seen in the conversation. What was rung last stands in `heard`: a
# program that goes on after it was frozen has noted what was taken before it hears the next bell.
#
# Served is only the program that owns the box: an attended session (a nested `claude -p` has the same environment),
# and the first one of the launch while it lives. Everybody else is sent away silently: exit 0.

PATH=/bin:/usr/bin:$PATH
umask 077
trap '' HUP

[ "${CLAUDE_CODE_ENTRYPOINT-cli}" = cli ] || exit 0
[ "${CLAUDE_CODE_SESSION_ATTENDED-1}" = 1 ] || exit 0
cd "${1:?}" 2>/dev/null || exit 0
me=${CLAUDE_PID:-$PPID}

owns() {
    owner=
    read -r owner 2>/dev/null <owner
    [ "$owner" != "$me" ] || return 0
    [ -z "$owner" ] || ! kill -0 "$owner" 2>/dev/null || return 1
    mkdir -p taken && echo "$me" >".owner.$$" && mv -f ".owner.$$" owner
}

owns 2>/dev/null || exit 0
case ${2-} in
watch)
    cat >/dev/null
    printf '{"hookSpecificOutput": {"hookEventName": "%s", "watchPaths": ["%s/bell"]}}\n' "$3" "$1"
    ;;
ring)
    cat >/dev/null
    {
        read -r rung <bell && echo "$rung" >".heard.$$" && mv -f ".heard.$$" heard
    } 2>/dev/null
    status=0
    for text in d.*; do
        mv "$text" "taken/${text#d.},$$" 2>/dev/null || continue
        cat "taken/${text#d.},$$" >&2 && status=2
    done
    exit $status
    ;;
tell)
    for text in b.*; do
        mv "$text" "taken/${text#b.},$$" 2>/dev/null || continue
        printf '{"hookSpecificOutput": {"hookEventName": "%s", "additionalContext": ' "$3"
        cat "taken/${text#b.},$$"
        printf '}}\n'
        break
    done
    ;;
esac
exit 0
