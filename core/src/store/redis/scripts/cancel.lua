-- Gives 1, or nothing for an unknown batch.
if not go_on() then
  return false
end
if call('HSETNX', batch, 'stopped', 1) == 1 then
  changed()
end
return 1
