package backup

// What marks a directory as one that a run has left.
var (
	Mark     = mark
	Marked   = marked
	PutStage = putStage

	// RemoveStage removes such a directory.
	RemoveStage = removeStage
)
