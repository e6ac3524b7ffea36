// What main.bicep takes, and hands to its modules. No resources are here: not every tool that reads templates knows
// the grammar of types.

@export()
@description('Tags of a resource.')
type tagsType = resourceInput<'Microsoft.Resources/resourceGroups@2025-04-01'>.tags

@export()
@description('Redundancy of a storage account.')
type storageSkuType = resourceInput<'Microsoft.Storage/storageAccounts@2026-06-01'>.sku.name

@export()
@description('Addresses of the services of a storage account.')
type storageEndpointsType = {
  @description('Address of blobs.')
  blob: string

  @description('Address of queues.')
  queue: string

  @description('Address of tables.')
  table: string
}

@export()
@description('Storage accounts that are used, wherever they are.')
type storageAccountsType = {
  @description('Name of the account.')
  name: string

  @description('Resource id of the account.')
  id: string
}[]

@export()
@description('Roles on storage accounts.')
type storageGrantsType = {
  @description('Name of the account.')
  account: string

  @description('Name of the role, as Azure calls it.')
  role:
    | 'Storage Blob Data Contributor'
    | 'Storage Blob Data Owner'
    | 'Storage Queue Data Contributor'
    | 'Storage Table Data Contributor'
}[]

@export()
@description('Instances that never sleep, and are paid for always.')
type alwaysReadyType = {
  @description('What they are for: `http`, or `function:` and the name of a function.')
  name: string

  @description('How many.')
  @minValue(1)
  instanceCount: int
}[]

@export()
@description('Settings of the app, by name. Their values are texts.')
type appSettingsType = {
  @description('Value of a setting.')
  *: string
}

@export()
@description('What gets a private endpoint.')
type privateLinksType = {
  @description('Resource id of what it leads to.')
  id: string

  @description('Name of what it leads to.')
  name: string

  @description('Part of it: `blob`, `queue` or `table` of an account, `vault`, or `sites` of an app.')
  groupId: string

  @description('Private DNS zone that has its address.')
  zone: string
}[]

@export()
@description('Texts: names, addresses or ids.')
type textsType = string[]

@export()
@description('Prefixes of names by kind of resource, as in abbreviations.json.')
type prefixesType = {
  @description('Prefix of one kind.')
  *: string
}
