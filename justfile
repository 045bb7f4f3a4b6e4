# The gates, by name. Every recipe is plain commands, so it can be typed by hand where `just` is not installed.
# CONTRIBUTING.md says when to run which.

# What there is.
default:
    @just --list --unsorted

# The fast gate, before every commit: Rust alone, under three minutes on a warm target directory.
fast:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test --workspace --locked --lib --test client --test controls --test hostile --test machine --test proxy --test words --test distance --test promises
    cargo test --workspace --locked --test simulation no_promise

# Every test on the embedded server: Rust alone.
test:
    cargo test --workspace --locked

# The machines under every order of answers and faults, with the tables of states and twins.
models:
    cargo test -p lockkeeper-actors --locked --test models -- --nocapture

# As many schedules of the simulation as the full gate runs, with their numbers.
simulation:
    LOCKKEEPER_SIMULATION_SCHEDULES=10000 cargo test -p lockkeeper-actors --locked --test simulation -- --nocapture

# Breaks the machines in one place at a time, and counts what the tests catch. The seed, 0 to 19, chooses the sample.
mutants SEED:
    .ci/mutants {{SEED}}

# The suites again and again beside two busy loops, to find tests that fail by chance: about three hours.
under-load EMBEDDED="10" ENSEMBLE="3":
    .ci/under-load {{EMBEDDED}} {{ENSEMBLE}}

# The full gate, about 45 minutes: on Debian as root, it installs Java, ZooKeeper, Curator and kazoo.
full:
    .ci/run

# The documentation; a warning is an error.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The pages of `docs` as a book, in target/book; needs `cargo install mdbook --locked`.
book:
    mdbook build docs

# How fast it is, beside what client and server can do at best: some minutes.
bench:
    cargo bench --bench lock

# How its costs grow with the number of contenders, beside kazoo and Curator: twenty minutes.
scale:
    cargo bench --bench scale

# The page docs/benchmarks.md, beside the peers: twenty minutes on a machine that does nothing else.
report:
    cargo run --release -p lockkeeper-report

# The page docs/lasting-faults.md: what is left of the grants while a fault lasts. Ten minutes.
lasting:
    cargo run --release -p lockkeeper-report -- --faults
