// Package failpoint lets a test end the process at a named step.
//
// [Here] marks a step. In a program built without the tag "failpoints" it is
// empty and the compiler leaves nothing of it. With the tag, the environment
// variable SEALTAP_FAILPOINT says what happens:
//
//	NAME:COUNT         SIGKILL to this process when it passes NAME the COUNT-th time
//	NAME:COUNT:group   SIGKILL to every process of its process group
//	NAME:COUNT:stall   this goroutine says so on standard error and waits for ever; the
//	                   others go on, so that what was shown too early can be seen
//
// No answer, no deferred call and no flush comes after a SIGKILL, so what is found
// afterwards is what had been handed to the operating system by then.
package failpoint
