-- Gives 1, or nothing for an unknown batch.
if not go_on() then
  return false
end
-- One that has become complete meanwhile was not cancelled.
if call('HEXISTS', batch, 'completed') == 0 and call('HSETNX', batch, 'stopped', 1) == 1 then
  changed()
end
return 1
