# Sourced by the scripts that install from a wheel. `fail` is theirs, and `work` their throwaway folder.

# Debian ships Python without pip; a throwaway virtual environment brings it where `venv` is there.
find_pip() { # VARIABLE: what to set instead
  if python3 -m pip --version >/dev/null 2>&1; then
    pip=(python3 -m pip)
  elif python3 -m venv "$work/venv" >/dev/null 2>&1; then
    pip=("$work/venv/bin/python" -m pip)
  else
    fail "python3 has neither pip nor venv: install one (Debian: \`apt-get install python3-venv\`), or set $1"
  fi
}
