# (Sourced by run.sh.)
