package backup

// Mark marks a directory as one that a run has left.
var Mark = mark
