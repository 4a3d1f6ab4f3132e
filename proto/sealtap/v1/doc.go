// Package sealtapv1 is the generated Go of the schema of records and of submission.
// docs/formats.md says how its messages become entries, and why they are never
// encoded twice; package record is what to use.
package sealtapv1
