#!/bin/sh
# What kimi does, shown with the small model that runs inside it: no token, no network.
# Fails when an exit status is not the one that the manual promises; stops where nothing else
# can succeed, because the engine or its model cannot be used.

set -u

wrong=0

# show EXPECTED COMMAND: run a shell command, and show it, its output and its exit status.
show() {
    expected=$1
    command=$2
    status=0
    printf '\n$ %s\n' "$command"
    (eval "$command") || status=$?
    printf 'exit status %s\n' "$status"
    if [ "$status" -ne "$expected" ]; then
        printf 'demo: expected exit status %s\n' "$expected" >&2
        wrong=1
    fi
}

# need COMMAND: show a command that all others build on; without it there is no demo.
need() {
    printf '\n$ %s\n' "$1"
    (eval "$1") || exit 1
    printf 'exit status 0\n'
}

exec </dev/null

printf '%s\n' 'A model of 135 million parameters answers: to try the tool with, not to believe.'

printf '\n%s\n' '# one question, answered as a stream'
need 'kimi ask --profile local "What is the capital of France?"'

printf '\n%s\n' '# the end of a pipe'
show 0 "printf '%s\n' '+def double(number):' '+    return 2 * number' |
    kimi ask --profile local 'Write a commit message'"

printf '\n%s\n' '# an answer that was cut off is printed, and does not pass for a whole one'
show 3 'kimi ask --profile local --max-tokens 1 "Tell me a long story"'

printf '\n%s\n' '# an answer of a form is checked, whatever the model promised: data for programs'
show 0 'kimi ask --profile local --schema "capital, people int" "What is the capital of France?"'

printf '\n%s\n' '# an empty prompt is not sent'
show 65 "printf '' | kimi ask --profile local"

printf '\n%s\n' '# the default profile needs a token'
show 78 'env -i PATH="$PATH" HOME=/nonexistent kimi ask "Hello"'

printf '\n%s\n' '# three questions in one conversation'
talk="printf '%s\\n' 'What is the capital of France?' 'Which language do people speak there?' \\
    'What is it famous for?' | kimi chat --profile local"
show 0 "$talk"

printf '\n%s\n' '# ten prompts from a file; the run is killed as soon as one is answered'
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
answers=$folder/answers.jsonl
batch='kimi batch --profile local examples/prompts.jsonl --format flat -c 1 -o "$answers"'
show 137 "$batch & run=\$!
    while kill -0 \$run && ! [ -s \"\$answers\" ]; do sleep 0.1; done
    kill -KILL \$run; wait \$run"

printf '\n%s\n' '# the same command goes on, and each row has one answer'
kept=$(wc -l <"$answers")
show 0 "$batch"
rows='sort -u "$answers" | grep -c custom_id'
show 0 "$rows"
[ "$kept" -gt 0 ] && [ "$(eval "$rows")" -eq 10 ] || wrong=1

printf '\n%s\n' '# a table in, a table of what was found out; every answer is checked'
show 0 "printf 'id,town\n1,Paris\n2,Rome\n3,Paris\n' |
    kimi batch --profile local --csv -p 'In which country is {town}?' \\
    --schema 'country, river' --dedupe --ordered --format flat -c 1"

printf '\n'
exit "$wrong"
