package audit

import "fmt"

// Consequence says what follows from a finding of the code, for those who have to
// decide what to do; "" for codes that need no more words than the finding has.
func (c Code) Consequence() string {
	switch c {
	case Rollback:
		return "What is not shown any more may have been taken away. Keep the heads: both are signed. Ask the operator and the witnesses."
	case Fork:
		return "Two histories exist, and each was signed. Keep what is shown here: it convicts whoever signed both."
	case CheckpointSignature:
		return "Whoever made this checkpoint is not the log that you trust: nothing under it counts."
	case QuorumNotMet:
		return "The log may show others another history: too few witnesses vouch for this one."
	case GenesisInvalid, KeyChangeInvalid:
		return "Who was allowed to write to the log is not certain from there on."
	case PredecessorMismatch:
		return "That this log goes on where the one before ended is not shown."
	case RootMismatch:
		return "Entries are not those that were signed. Findings about single entries tell which; where there are none, none can be relied on."
	case EntryAltered:
		return "What this entry says now is not what was recorded. The entries around it stay proven."
	case RecordMissing:
		return "Exchanges took place, or states of the producer, of which the log does not tell any more."
	case SealMismatch:
		return "Records of this producer have been replaced; those before its last good seal stay proven."
	case SealSignature:
		return "The seal proves nothing; records that no other seal covers are not proven to be the producer's."
	case UnknownProducer:
		return "Somebody wrote who was not allowed to. Do not rely on these records."
	case RecordDuplicated:
		return "Counts of records are too high by it; no record is lost."
	case TimeOrder:
		return "The time of this record cannot be true. Its place among the records of its producer can be relied on."
	case OpeningMismatch:
		return "The value that is shown for a sealed field was not the one recorded. The record itself stays proven."
	case OpeningClosed:
		return "What stands in these sealed fields was not compared with the commitments."
	case SidesDiffer:
		return "What one proxy passed on is not what the next one got: it was changed on the way, or one of the two lies."
	case TileAltered:
		return "Followers of the log get wrong hashes and stop. The entries stay proven."
	case EntryMalformed:
		return "Nobody can tell what this entry says. It stands as it was hashed."
	case StartMissing:
		return "Nothing ties this incarnation to the one before: between them records may be lost."
	case UnsealedTail:
		return "Whether these records are the producer's, and all of them, is not proven."
	case BracketWide:
		return "Within that time the record can claim any."
	case GapDeclared:
		return "Of these exchanges there are no records; the producer says so itself."
	case ProducerSilent:
		return "What happened at this producer since is not known."
	case SilentInterval:
		return "What happened at this producer in the meantime is not known. All that it recorded is there."
	case UncleanStop:
		return "It was killed, or lost power. What it had recorded and handed on is there; how the exchanges that were under way ended is not known."
	case IncarnationUnlinked, IncarnationBranched:
		return "What the earlier incarnation may have lost at its end is bounded by its heartbeat only."
	}
	return ""
}

// notProven lists what the report does not prove, in words.
func (a *auditor) notProven() (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if a.Operator == nil {
		say("Who the operator is: none is pinned, so the key in the log's genesis was believed, and with it every producer.")
	}
	if !a.vouched() {
		say("Any time: no quorum of witnesses vouches for one. Times are those that producers claim.")
	}
	if a.State == "" {
		say("That the log is the one that an earlier audit saw: no state of one was given (--state).")
	}
	if a.kept != nil && a.kept.Minimum > 0 {
		say("Anything about what the %d entries said that the log does not keep any more.", a.kept.Minimum)
	}
	if a.Statements == 0 && a.kept != nil && a.kept.Minimum > 0 {
		say("That the operator's newest statements are shown: compare their number with what the operator made (--statements).")
	}
	say("What producers have not sealed and handed over by the head under audit.")
	say("The order of records of different producers, except where a beacon stands between them.")
	say("That what a record says is true: it is what its producer saw, or said, unchanged.")
	say("The exact time of a record within the two times between which the witnesses place it.")
	if len(a.report.Predecessor.name()) > 0 && !a.report.Predecessor.Closed {
		say("What stood in the log before, %s: it has an audit of its own.", a.report.Predecessor.Origin)
	}
	if a.report.Checked.Openings == 0 {
		say("The values of sealed fields: none were given to the audit, and commitments tell nothing.")
	}
	return list
}

func (p *Predecessor) name() string {
	if p == nil {
		return ""
	}
	return p.Origin
}
