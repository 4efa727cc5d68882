// Package prompt reads what a person types, message by message: with line editing and history at a
// terminal, and as plain lines from a pipe or a file.
//
// A message is one line, unless it begins with three double quotes, which end it as well, or a line
// ends with a backslash, or several lines are pasted at once.
//
// The terminal is raw only while a line is being edited. In between it is as it was, so that Ctrl-C
// is a signal again and what is written needs no care.
package prompt
