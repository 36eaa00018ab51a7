# What CI runs: formatting, lints, docs, tests.
check:
    ./check

# A relay, a studio and a test picture on this machine.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# CPU, latency and loss under load, side by side with nginx-rtmp where it is installed.
bench *ARGS:
    benches/relay-load {{ARGS}}
