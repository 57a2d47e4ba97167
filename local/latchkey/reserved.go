package main

import (
	"runtime"
	"strings"
)

// reserved are the variables that a secret may not be unless that is asked for,
// in lines for a help: each makes programs load or run what it says, or makes
// latchkey somebody else. Whoever may write a secret could otherwise run code on
// every machine that reads it. The list cannot be complete.
const reserved = `
  PATH IFS ENV BASH_ENV BASHOPTS SHELLOPTS PS4 PROMPT_COMMAND LD_* DYLD_*
  PYTHONSTARTUP PYTHONPATH PYTHONHOME NODE_OPTIONS NODE_PATH RUBYOPT RUBYLIB
  PERL5OPT PERL5LIB PERL5DB JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS
  CLASSPATH DOTNET_STARTUP_HOOKS GIT_ASKPASS GIT_CONFIG* GIT_EDITOR GIT_PAGER
  GIT_EXEC_PATH GIT_EXTERNAL_DIFF GIT_PROXY_COMMAND GIT_SEQUENCE_EDITOR GIT_SSH*
  GIT_TEMPLATE_DIR EDITOR VISUAL PAGER BROWSER SHELL COMSPEC PATHEXT LATCHKEY_*`

func isReserved(variable string) bool {
	if runtime.GOOS == "windows" { // where upper and lower case are the same
		variable = strings.ToUpper(variable)
	}
	for _, name := range strings.Fields(reserved) {
		prefix, isPrefix := strings.CutSuffix(name, "*")
		if variable == name || isPrefix && strings.HasPrefix(variable, prefix) {
			return true
		}
	}
	return false
}
