#!/bin/sh
# The status line of a Claude Code that fleet launched: what the program tells is kept for fleet, and what a person
# sees stays theirs.
#
#     statusline.sh [COMMAND]   COMMAND: the user's own status line, a shell line; it gets the same stdin
#
# The JSON on stdin becomes the file `statusline` beside this script, whole or not at all, the latest one only.

PATH=${PATH:+$PATH:}/usr/bin:/bin
umask 077
told=$(cat)
{
    file=${0%/*}/statusline
    if printf '%s\n' "$told" >"$file.$$"; then
        mv -f "$file.$$" "$file"
    else
        rm -f "$file.$$"
    fi
} >/dev/null 2>&1

if [ "${1-}" ]; then
    printf '%s\n' "$told" | /bin/sh -c "$1"
    exit
fi

# Nobody's own: the model, and how full its context is.
model= full=
case $told in *'"display_name":"'*)
    model=${told#*'"display_name":"'}
    model=${model%%'"'*}
    ;;
esac
case $told in *'"context_window":{'*'"used_percentage":'[0-9]*)
    full=${told#*'"context_window":{'}
    full=${full#*'"used_percentage":'}
    full=${full%%[!0-9]*}
    ;;
esac
[ "$full" ] && model="${model:+$model · }$full% context"
[ "$model" ] && printf '%s\n' "$model"
exit 0
