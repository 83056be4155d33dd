package natstest

// PIDs returns the processes of the servers that run.
func (s *Servers) PIDs() []int {
	var pids []int
	for _, m := range s.members {
		p := m.(*process)
		p.mu.Lock()
		if p.cmd != nil {
			pids = append(pids, p.cmd.Process.Pid)
		}
		p.mu.Unlock()
	}
	return pids
}
